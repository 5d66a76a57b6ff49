"""Which anchor answers for which labelled box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .anchors import Anchor
from .cells import MapCells
from .flat_labels import FlatLabels

CHUNK = 1 << 23  # overlaps computed at a time


class AnchorTargets(NamedTuple):
    """Of (B, Y, X, classes, 2) anchors: row of the labelled box or -1; whether it is trained at all."""

    label: Tensor
    trained: Tensor


def anchor_targets(
    known: FlatLabels, batch_size: int, anchors: Sequence[Anchor], cells: MapCells
) -> AnchorTargets:
    """An anchor answers for the box of its class that it overlaps most, if by ``matched`` or more.

    So do the anchors that overlap a box more than any others do, however little. Overlaps are those of the
    boxes turned to the nearest axis, from above.
    """
    shape = (batch_size, *cells.shape, len(anchors), 2)
    label = torch.full(shape, -1, dtype=torch.int64, device=known.boxes.device)
    trained = torch.ones(shape, dtype=torch.bool, device=known.boxes.device)
    for sample in range(batch_size):
        for kind, anchor in enumerate(anchors):
            own = ((known.sample == sample) & (known.classes == kind)).nonzero()[:, 0]
            if len(own) == 0:
                continue
            best, which, needed = best_overlaps(known.boxes[own], anchor, cells)
            positive = (best >= anchor.matched) | needed
            label[sample, :, :, kind][positive] = own[which[positive]]
            trained[sample, :, :, kind] = positive | (best < anchor.unmatched)
    return AnchorTargets(label, trained)


def best_overlaps(boxes: Tensor, anchor: Anchor, cells: MapCells) -> tuple[Tensor, Tensor, Tensor]:
    """Of a class's anchors (Y, X, 2): best overlap, with which box (the first of equals), and whether needed.

    An anchor is needed by a box if no other overlaps that box more.
    """
    height, width = cells.shape
    best = boxes.new_full((height, width, 2), -1.0)
    which = torch.zeros(best.shape, dtype=torch.int64, device=boxes.device)
    needed = torch.zeros(best.shape, dtype=torch.bool, device=boxes.device)
    rows = torch.arange(len(boxes), device=boxes.device)
    for some in rows.split(max(1, CHUNK // best.numel())):
        overlap = overlaps_with_map(boxes[some], anchor, cells)
        most = overlap.flatten(0, 2).amax(0)
        needed |= ((overlap == most) & (most > 0)).any(-1)
        value, index = overlap.max(-1)
        which = torch.where(value > best, some[index], which)
        best = torch.maximum(best, value)
    return best, which, needed


def overlaps_with_map(boxes: Tensor, anchor: Anchor, cells: MapCells) -> Tensor:
    """Intersection over union from above of a class's anchors with boxes turned to the nearest axis.

    Both are aligned to the axes, so the length shared along x depends on the column alone, that along y on
    the row. Returns: (Y, X, 2, K).
    """
    off_axis = (torch.remainder(boxes[:, 6] + math.pi / 2, math.pi) - math.pi / 2).abs() > math.pi / 4
    length = torch.where(off_axis, boxes[:, 4], boxes[:, 3])
    across = torch.where(off_axis, boxes[:, 3], boxes[:, 4])
    middles = [torch.arange(n, device=boxes.device).to(boxes) + 0.5 for n in cells.shape]
    (y, x), (x_size, y_size), low = middles, cells.size, cells.grid.point_range
    x, y = x * x_size + low[0], y * y_size + low[1]
    both = []
    for dx, dy in (anchor.size[:2], anchor.size[1::-1]):  # at yaw 0, and a quarter turn on
        along_x = shared_length(x[:, None], dx, boxes[:, 0], length)  # (X, K)
        along_y = shared_length(y[:, None], dy, boxes[:, 1], across)  # (Y, K)
        shared = along_y[:, None] * along_x
        both.append(shared / (dx * dy + length * across - shared))
    return torch.stack(both, dim=2)


def shared_length(a: Tensor, a_size: float, b: Tensor, b_size: Tensor) -> Tensor:
    """Of intervals about middles a and b, broadcast; 0 when they are apart."""
    high = torch.minimum(a + a_size / 2, b + b_size / 2)
    return (high - torch.maximum(a - a_size / 2, b - b_size / 2)).clamp(min=0)
