"""The definitions, in float64, left to autograd; memory is N x segments."""

import torch
from torch import Tensor


def _members(index: Tensor, segments: int) -> Tensor:
    """(segments, N) float64: 1 where token n is in the segment."""
    return (index == torch.arange(segments, device=index.device).unsqueeze(1)).double()


def segment_sum_reference(x: Tensor, index: Tensor, segments: int) -> Tensor:
    """y_g = sum of x_n over the n with index_n = g."""
    return torch.tensordot(_members(index, segments), x.double(), 1).to(x.dtype)


def segment_gather_reference(x: Tensor, index: Tensor) -> Tensor:
    """y_n = x_(index_n)."""
    return torch.tensordot(_members(index, x.shape[0]).t(), x.double(), 1).to(x.dtype)
