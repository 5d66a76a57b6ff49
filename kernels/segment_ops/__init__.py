"""Sums of rows by segment and rows by segment, with the same bits every time. Equations in README.md."""

from torch import Tensor

from .. import checks
from ..dispatch import BACKENDS
from ..transforms import choose_with_backward
from .arguments import check_index, check_rows, check_values
from .ops import segment_gather_op, segment_sum_op
from .reference import segment_gather_reference, segment_sum_reference

__all__ = ["segment_gather", "segment_sum"]


def segment_sum(x: Tensor, index: Tensor, segments: int, *, backend: str = "auto") -> Tensor:
    """y_g = sum of x_n over the n with index_n = g; a segment that nothing is in gets 0.

    Args:
        x: (N, C...), any strides: float64, float32, bfloat16 or float16; N may be 0.
        index: (N,) int64, the segment of each row, 0 .. segments - 1, in any order. Values are checked on the
            CPU only.
        segments: how many there are, >= 0.
        backend: "auto", "triton" (CUDA), "eager", "reference" (the definition, float64).
    Returns: (segments, C...) in x's dtype, added up in float32 (float64 for float64). No atomics: the same
        input gives the same bits, on every device.
    Raises: ShapeError, ValueError or TypeError that name the argument; BackendError when a backend asked for
        by name cannot run, and under torch.func and forward-mode derivatives (only "reference" takes them).
    Differentiable any number of times; the gradient is ``segment_gather``.
    """
    op = "segment_sum"
    check_rows(op, x, "(N, C...)")
    check_index(op, index, x, x.shape[0])
    checks.check_integer(op, "segments", segments, least=0)
    if checks.values_are_visible(index):
        check_values(op, index, segments)
    chosen = choose_with_backward(op, BACKENDS, backend, x)
    if chosen == "reference":
        return segment_sum_reference(x, index, segments)
    return segment_sum_op(x, index, segments, chosen)


def segment_gather(x: Tensor, index: Tensor, *, backend: str = "auto") -> Tensor:
    """y_n = x_(index_n), with a backward that sums by segments and not by atomics.

    Args:
        x: (S, C...), any strides: float64, float32, bfloat16 or float16; a row for each segment.
        index: (N,) int64, 0 .. S - 1, in any order; N may be 0. Values are checked on the CPU only.
        backend: as in ``segment_sum``.
    Returns: (N, C...) in x's dtype.
    Raises: as ``segment_sum``.
    Differentiable any number of times; the gradient is ``segment_sum``.
    """
    op = "segment_gather"
    check_rows(op, x, "(S, C...)")
    check_index(op, index, x, None)
    if checks.values_are_visible(index):
        check_values(op, index, x.shape[0])
    chosen = choose_with_backward(op, BACKENDS, backend, x)
    if chosen == "reference":
        return segment_gather_reference(x, index)
    return segment_gather_op(x, index, chosen)
