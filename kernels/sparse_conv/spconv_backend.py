"""spconv (2.3) as a backend of ``sparse_conv`` on CUDA: its native kernels on our pair lists and weights.

It has not been run on a GPU. The package is imported when first used. Its forward runs on the CPU too, but
its backward there asks torch for a CUDA stream, so CPU tensors are refused.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .pairs import ConvPairs

DTYPES = (torch.float32, torch.float16)


def why_no_spconv(x: Tensor) -> str | None:
    """None when spconv can run on ``x``, otherwise the reason as a phrase."""
    if find_spec("spconv") is None:
        return "spconv is not installed (pip install spconv-cu126, or the build for another CUDA)"
    if not x.is_cuda:
        return f"tensors are on {x.device.type}, needs cuda (its backward asks for a CUDA stream)"
    if x.dtype not in DTYPES:
        return f"takes float32 and float16, got {x.dtype}"
    return None


def spconv_conv(x: Tensor, weight: Tensor, bias: Tensor | None, pairs: ConvPairs) -> Tensor:
    """x (n_in, Cin), weight [Cout, kz, ky, kx, Cin] -> (n_out, Cout)."""
    y = _Native.apply(x, weight, *indice_pairs(pairs), pairs.n_out, pairs.identity >= 0)
    return y if bias is None else y + bias


def indice_pairs(pairs: ConvPairs) -> tuple[Tensor, Tensor]:
    """The pair lists in spconv's form: (2, K, most pairs of a cell) int32, -1 behind, and (K,) int32 counts.

    Of a submanifold convolution spconv counts the first half of the cells only, and takes the middle as read.
    """
    if "indice_pairs" not in pairs.cache:
        counts = pairs.offsets.diff()
        device = pairs.inputs.device
        slots = torch.arange(int(counts.max()), device=device) < counts.to(device).unsqueeze(1)
        lists = torch.full((2, *slots.shape), -1, dtype=torch.int32, device=device)
        lists[0][slots], lists[1][slots] = pairs.inputs.int(), pairs.outputs.int()
        pairs.cache["indice_pairs"] = lists
        pairs.cache["indice_pair_num"] = counts.int().to(device)
    return pairs.cache["indice_pairs"], pairs.cache["indice_pair_num"]


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, lists: Tensor, counts: Tensor, n_out: int, submanifold: bool
    ) -> Tensor:
        from spconv.pytorch import ops
        from spconv.pytorch.core import ConvAlgo

        ctx.save_for_backward(x, weight, lists, counts)
        ctx.submanifold = submanifold
        words = {"subm": submanifold, "algo": ConvAlgo.Native}
        return ops.indice_conv(x.contiguous(), weight.contiguous(), lists, counts, n_out, **words)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple:
        from spconv.pytorch import ops
        from spconv.pytorch.core import ConvAlgo

        x, weight, lists, counts = ctx.saved_tensors
        words = {"subm": ctx.submanifold, "algo": ConvAlgo.Native}
        dx, dw = ops.indice_conv_backward(
            x.contiguous(), weight.contiguous(), dy.contiguous(), lists, counts, **words
        )
        return dx, dw, None, None, None, None
