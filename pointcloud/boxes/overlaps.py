"""Intersection over union of boxes: every pair of two lists, or row by row with gradients.

In BEV: area shared / area of the union. In 3D: shared area x shared height / volume of the union. Computed in
float64 and returned in the boxes' dtype.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .checks import check_boxes, check_pairs
from .corners import bev_bounds
from .intersections import bev_intersections

ENTRIES, PAIRS = 2**22, 2**14  # bounds compared together; polygons cut together: they bound the memory


def iou_bev_of_pairs(a: Tensor, b: Tensor) -> Tensor:
    """Row by row, differentiable: (N, 7 or more) twice -> (N,).

    Raises: ShapeError for lists of different length; ValueError for sizes that are not above zero.
    """
    check_pairs("iou_bev_of_pairs", a, b)
    dtype, (a, b) = torch.promote_types(a.dtype, b.dtype), (a.double(), b.double())
    shared = bev_intersections(a, b)
    return (shared / (_area(a) + _area(b) - shared)).to(dtype)


def iou_3d_of_pairs(a: Tensor, b: Tensor) -> Tensor:
    """Row by row, differentiable: (N, 7 or more) twice -> (N,). Raises as ``iou_bev_of_pairs``."""
    check_pairs("iou_3d_of_pairs", a, b)
    dtype, (a, b) = torch.promote_types(a.dtype, b.dtype), (a.double(), b.double())
    shared = bev_intersections(a, b) * _shared_height(a, b)
    return (shared / (_volume(a) + _volume(b) - shared)).to(dtype)


def overlaps_bev(a: Tensor, b: Tensor) -> Tensor:
    """Every pair, from above: (N, 7 or more), (M, 7 or more) -> (N, M). No gradients.

    Raises: ValueError for sizes that are not above zero.
    """
    return overlaps_bev_and_3d(a, b)[0]


def overlaps_3d(a: Tensor, b: Tensor) -> Tensor:
    """Every pair, in 3D: (N, 7 or more), (M, 7 or more) -> (N, M). Otherwise as ``overlaps_bev``."""
    return overlaps_bev_and_3d(a, b)[1]


@torch.no_grad()
def overlaps_bev_and_3d(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``overlaps_bev`` and ``overlaps_3d`` for the price of one."""
    check_boxes("overlaps", "a", a)
    check_boxes("overlaps", "b", b)
    dtype, (a, b) = torch.promote_types(a.dtype, b.dtype), (a.double(), b.double())
    bev = a.new_zeros(len(a), len(b))
    full = bev.clone()
    for i, j in close_pairs(a, b):
        shared = bev_intersections(a[i], b[j])
        bev[i, j] = shared / (_area(a[i]) + _area(b[j]) - shared)
        shared = shared * _shared_height(a[i], b[j])
        full[i, j] = shared / (_volume(a[i]) + _volume(b[j]) - shared)
    return bev.to(dtype), full.to(dtype)


@torch.no_grad()
def pairs_above(a: Tensor, b: Tensor, threshold: float) -> tuple[Tensor, ...]:
    """Indices (i, j) of the pairs, float64 boxes, whose overlap in BEV is above ``threshold``."""
    found = [torch.zeros(2, 0, dtype=torch.int64, device=a.device)]
    for i, j in close_pairs(a, b, threshold):
        shared = bev_intersections(a[i], b[j])
        above = shared / (_area(a[i]) + _area(b[j]) - shared) > threshold
        found.append(torch.stack((i[above], j[above])))
    return torch.cat(found, 1).unbind()


def close_pairs(a: Tensor, b: Tensor, threshold: float = 0.0) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of the pairs whose bounds allow an overlap above ``threshold``, PAIRS or fewer at a time.

    The shared area is at most that of either box and that of the bounds' intersection.
    """
    low, high = bev_bounds(b)
    area = _area(b)
    rows = max(1, ENTRIES // max(1, len(b)))
    for start in range(0, len(a), rows):
        part = a[start : start + rows]
        part_low, part_high = bev_bounds(part)
        width = torch.minimum(part_high[:, None], high) - torch.maximum(part_low[:, None], low)
        most = torch.minimum(_area(part)[:, None], area).minimum(width.clamp(min=0).prod(-1))
        union = _area(part)[:, None] + area - most
        i, j = (most * (1 + 1e-9) > threshold * union).nonzero(as_tuple=True)
        yield from zip((i + start).split(PAIRS), j.split(PAIRS), strict=True)


def _area(boxes: Tensor) -> Tensor:
    return boxes[:, 3] * boxes[:, 4]


def _volume(boxes: Tensor) -> Tensor:
    return boxes[:, 3:6].prod(1)


def _shared_height(a: Tensor, b: Tensor) -> Tensor:
    top = torch.minimum(a[:, 2] + a[:, 5] / 2, b[:, 2] + b[:, 5] / 2)
    bottom = torch.maximum(a[:, 2] - a[:, 5] / 2, b[:, 2] - b[:, 5] / 2)
    return (top - bottom).clamp(min=0)
