"""Convolutions over the occupied cells of a grid, by lists of pairs. Equations in README.md."""

import torch
from torch import Tensor

from .. import checks
from ..autocast import as_autocast, exactly
from ..dispatch import BACKENDS as OWN
from ..dispatch import Backend
from ..transforms import choose_with_backward
from .arguments import check_features, check_rows, check_weight
from .ops import depthwise_op, sparse_conv_op
from .pairs import ConvPairs
from .reference import depthwise_sparse_conv_reference, sparse_conv_reference
from .spconv_backend import spconv_conv, why_no_spconv
from .strided import strided_pairs
from .submanifold import submanifold_pairs

__all__ = ["ConvPairs", "depthwise_sparse_conv", "sparse_conv", "strided_pairs", "submanifold_pairs"]

BACKENDS = (*OWN, Backend("spconv", why_no_spconv, by_name_only=lambda x: True))


def sparse_conv(
    x: Tensor, weight: Tensor, pairs: ConvPairs, *, bias: Tensor | None = None, backend: str = "auto"
) -> Tensor:
    """y_o = bias + the sum over kernel cells k and pairs (i, o) of cell k of weight_k x_i.

    Cross-correlation, as conv3d: with all cells of a grid occupied it is conv3d.

    Args:
        x: (M, Cin) features of the input cells, any strides: float64, float32, bfloat16 or float16; M may
            be 0. Under autocast x, weight and bias are cast.
        weight: [Cout, kz, ky, kx, Cin], spconv's layout, in x's dtype.
        pairs: of ``submanifold_pairs`` or ``strided_pairs``; M = pairs.n_in.
        bias: (Cout,) in x's dtype.
        backend: "auto", "triton" (CUDA), "eager", "reference" (the definition, float64), or "spconv" (CUDA,
            with that package installed; by name only).
    Returns: (pairs.n_out, Cout) in x's dtype, accumulated in float32 (float64 for float64).
    Raises: ShapeError, ValueError or TypeError that name the argument; BackendError when a backend asked for
        by name cannot run, and under torch.func and forward-mode derivatives (only "reference" takes them).
    Once differentiable in x, weight and bias. No atomics: the same input gives the same bits.
    Source: submanifold sparse convolution, arXiv 1711.10275.
    """
    op = "sparse_conv"
    check_features(op, x, "Cin")
    _check_pairs(op, pairs)
    x, weight, bias = (as_autocast(t) if isinstance(t, Tensor) else t for t in (x, weight, bias))
    check_rows(op, x, pairs.n_in, pairs.inputs)
    out = weight.shape[0] if isinstance(weight, Tensor) and weight.dim() else 0
    check_weight(op, weight, "[Cout, kz, ky, kx, Cin]", (out, *pairs.kernel_size, x.shape[1]), x)
    if bias is not None:
        checks.check_shape(op, "bias", bias, "(Cout,)", (out,))
        checks.check_like(op, "bias", bias, "x", x)
    chosen = choose_with_backward(op, BACKENDS, backend, x)
    if chosen in ("reference", "spconv"):
        with exactly(x):
            run = sparse_conv_reference if chosen == "reference" else spconv_conv
            return run(x, weight, bias, pairs)
    lists = _lists(pairs, chosen, x, weight)
    return sparse_conv_op(x, weight, bias, *lists, pairs.n_out, pairs.identity, chosen)


def depthwise_sparse_conv(x: Tensor, weight: Tensor, pairs: ConvPairs, *, backend: str = "auto") -> Tensor:
    """y_oc = the sum over kernel cells k and pairs (i, o) of cell k of weight_kc x_ic, channel by channel.

    Args:
        x: (M, C) features of the input cells, as in ``sparse_conv``.
        weight: [kz, ky, kx, C] in x's dtype.
        pairs, backend: as in ``sparse_conv``, but spconv has no depthwise convolution.
    Returns: (pairs.n_out, C) in x's dtype, accumulated in float32 (float64 for float64).
    Raises: as ``sparse_conv``.
    Once differentiable in x and weight. No atomics: the same input gives the same bits.
    """
    op = "depthwise_sparse_conv"
    check_features(op, x, "C")
    _check_pairs(op, pairs)
    x, weight = (as_autocast(t) if isinstance(t, Tensor) else t for t in (x, weight))
    check_rows(op, x, pairs.n_in, pairs.inputs)
    check_weight(op, weight, "[kz, ky, kx, C]", (*pairs.kernel_size, x.shape[1]), x)
    chosen = choose_with_backward(op, OWN, backend, x)
    if chosen == "reference":
        with exactly(x):
            return depthwise_sparse_conv_reference(x, weight, pairs)
    lists = _lists(pairs, chosen, x, weight)
    return depthwise_op(x, weight, *lists, pairs.n_out, pairs.identity, chosen)


def _check_pairs(op: str, pairs: object) -> None:
    if not isinstance(pairs, ConvPairs):
        raise TypeError(f"{op}: pairs must be a ConvPairs, got {type(pairs).__name__}")


def _lists(pairs: ConvPairs, chosen: str, x: Tensor, weight: Tensor) -> tuple[Tensor | None, ...]:
    """(inputs, outputs, offsets, table, transposed table) as the backend takes them."""
    if chosen == "eager":
        return pairs.inputs, pairs.outputs, pairs.offsets, None, None
    wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    tables = (pairs.table(), pairs.transposed_table() if wanted else None)
    return pairs.inputs, pairs.outputs, pairs.device_offsets(), *tables
