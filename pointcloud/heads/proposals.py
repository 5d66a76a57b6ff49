"""Where TransFusion's queries start: the best local maxima of a heat map."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Proposals(NamedTuple):
    """Of each sample the best cells, best first: classes, row, column (B, Q) int64, scores (B, Q)."""

    classes: Tensor
    row: Tensor
    column: Tensor
    scores: Tensor


def best_cells(heat: Tensor, count: int, everywhere: Tensor) -> Proposals:
    """Heat maps (B, classes, rows, columns) in 0..1 -> the ``count`` best cells over all classes.

    A cell counts where none of the 3x3 about it is higher, or anywhere for classes that are True in
    ``everywhere`` (classes,): small objects stand close. What does not count has a score of 0.
    Raises: ValueError when the map has fewer cells times classes than ``count``.
    """
    _, classes, rows, columns = heat.shape
    if classes * rows * columns < count:
        got = f"{classes} classes on {rows} x {columns} cells"
        raise ValueError(f"queries must be at most the number of cells of all classes, got {count} of {got}")
    around = F.max_pool2d(heat, 3, stride=1, padding=1)
    counts = (heat == around) | everywhere[:, None, None]
    scores, place = torch.where(counts, heat, 0).flatten(1).topk(count)
    return Proposals(place // (rows * columns), place // columns % rows, place % columns, scores)
