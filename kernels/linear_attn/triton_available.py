"""Whether the Triton path can run for a tensor, without importing triton."""

import os
import sys
from importlib.util import find_spec

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter; settled when they are first imported."""
    parts = sys.modules.get(__package__ + ".triton_parts")
    if parts is not None:
        return bool(parts.INTERPRETED.value)
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y", "t")


def why_not(x: Tensor) -> str | None:
    """None when the Triton kernels can run on ``x``, otherwise the reason."""
    if find_spec("triton") is None:
        return "triton is not installed"
    if x.dtype not in DTYPES:
        return f"triton kernels take bfloat16, float16 or float32, got {str(x.dtype).removeprefix('torch.')}"
    if interpreting():
        return None if x.device.type in ("cpu", "cuda") else f"the tensor is on {x.device.type}, needs cuda"
    if x.device.type != "cuda":
        return f"the tensor is on {x.device.type}, needs cuda (TRITON_INTERPRET=1 allows cpu, for tests)"
    if (
        torch.version.hip is None
        and torch.cuda.is_available()
        and torch.cuda.get_device_capability(x.device)[0] < 8
    ):
        return f"needs compute capability 8.0, got {torch.cuda.get_device_capability(x.device)}"
    return None
