"""Sums of rows by segment, and rows by index, in plain torch: the same input gives the same bits.

``index_add_`` takes rows in order on the CPU and by atomics on CUDA, so there the rows are sorted first and
each segment is summed from its first row to its last.
"""

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from ..segments import runs


def segment_sum(x: Tensor, index: Tensor, segments: int) -> Tensor:
    """x (N, C...), index (N,) -> (segments, C...) in x's dtype, added up in float32 or float64."""
    acc = accumulation_dtype(x.dtype)
    if x.device.type == "cpu":
        sums = torch.zeros((segments, *x.shape[1:]), dtype=acc)
        sums.index_add_(0, index, x.to(acc))
    else:
        sums = _sum_of_runs(x.to(acc), index, segments)
    return sums.to(x.dtype)


def _sum_of_runs(x: Tensor, index: Tensor, segments: int) -> Tensor:
    order, offsets = runs(index, segments)
    if segments == 0 or x.shape[0] == 0:
        return x.new_zeros((segments, *x.shape[1:]))
    rows = x.index_select(0, order)
    return torch.segment_reduce(rows, "sum", offsets=offsets.long(), initial=0, unsafe=True)


def segment_gather(x: Tensor, index: Tensor) -> Tensor:
    """x (S, C...), index (N,) -> (N, C...)."""
    return x.index_select(0, index)
