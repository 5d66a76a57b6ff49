"""The largest value of each run of rows: voxels take it from points, pillars from voxels."""

import torch
from torch import Tensor


def segment_max(rows: Tensor, lengths: Tensor) -> Tensor:
    """Per channel, (N, C) with the rows of a segment side by side, (S,) their numbers >= 1 -> (S, C).

    Rows that tie share the gradient evenly, so that neither result depends on their order.
    """
    return torch.segment_reduce(rows, "max", lengths=lengths, axis=0, unsafe=True)
