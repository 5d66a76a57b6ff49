"""Whether Triton kernels can run on a tensor, without importing triton."""

import os
from importlib.util import find_spec

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
HAS_TRITON = find_spec("triton") is not None
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"  # triton reads it when kernels are imported, so once
OLDEST = 8  # major compute capability: before it no bfloat16 and no tf32, and nothing was compiled for it


def _too_old(x: Tensor) -> str | None:
    """Why the NVIDIA GPU that ``x`` is on cannot run the kernels; None for others, and where there is no GPU
    to ask (fake tensors)."""
    if torch.version.hip or not torch.cuda.is_available():
        return None
    gpu = torch.cuda.get_device_properties(x.device)
    if gpu.major >= OLDEST:
        return None
    return f"needs compute capability {OLDEST}.0 or later, the GPU has {gpu.major}.{gpu.minor}"


def why_not(x: Tensor) -> str | None:
    """None when Triton kernels can run on ``x``, otherwise the reason as a phrase.

    Plain comparisons of constants, so that torch.compile can trace through.
    """
    if not HAS_TRITON:
        return "triton is not installed"
    if x.dtype not in DTYPES:
        return f"takes bfloat16, float16 and float32, got {x.dtype}"
    if x.is_cuda:
        return _too_old(x)
    if x.device.type == "cpu" and INTERPRETING:
        return None
    return f"tensors are on {x.device.type}, needs cuda"
