"""Cells as int64 numbers that can be sorted and searched.

Strides are longer than the grid by the kernel's radius, so a neighbour beyond an edge has a number that no
cell of another row, plane or sample has.
"""

import torch
from torch import Tensor

from .geometry import Triple


def spaced(shape: Triple, kernel: Triple) -> Triple:
    """Cells along each axis with the gap between rows, planes and samples: the kernel's radius."""
    depth, height, width = (size + k // 2 for size, k in zip(shape, kernel, strict=True))
    return depth, height, width


def padded_keys(coords: Tensor, shape: Triple, kernel: Triple) -> tuple[Tensor, Triple]:
    """(M,) int64 keys, rising in (b, z, y, x) order, and how far a step along z, y and x moves one."""
    depth, height, width = spaced(shape, kernel)
    b, z, y, x = coords.unbind(1)
    return ((b * depth + z) * height + y) * width + x, (height * width, width, 1)


def sorted_ranks(op: str, keys: Tensor, check: bool) -> tuple[Tensor | None, Tensor]:
    """(order, sorted keys); order is None where the keys rise already. Refuses a key that is there twice."""
    order = None
    steps = keys.diff()
    if bool((steps <= 0).any()):
        order = torch.argsort(keys)
        keys = keys[order]
        steps = keys.diff()
        if check and bool((steps == 0).any()):
            first = int((steps == 0).nonzero()[0])
            raise ValueError(
                f"{op}: coords must have no row twice, got rows {int(order[first])} and "
                f"{int(order[first + 1])} with the same cell"
            )
    return order, keys
