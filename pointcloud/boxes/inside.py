"""Which points lie in which box."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .checks import check_box_rows, check_points

ENTRIES = 2**20  # points x boxes looked at together: bounds the memory


def inside_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """(P, 3 or more), (K, 7 or more) -> (P, K) bool: inside, or on the surface. Not cut into chunks."""
    check_points("inside_boxes", "points", points)
    check_box_rows("inside_boxes", "boxes", boxes)
    dtype = torch.promote_types(points.dtype, boxes.dtype)
    points, boxes = points[:, :3].to(dtype), boxes.to(dtype)
    dx, dy, dz = (points[:, None] - boxes[None, :, :3]).unbind(-1)
    cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
    half = boxes[:, 3:6] / 2
    along = (dx * cos + dy * sin).abs() <= half[:, 0]
    across = (dy * cos - dx * sin).abs() <= half[:, 1]
    return along & across & (dz.abs() <= half[:, 2])


def _in_chunks(points: Tensor, boxes: Tensor) -> Iterator[Tensor]:
    for part in points.split(max(1, ENTRIES // max(1, len(boxes)))):
        yield inside_boxes(part, boxes)


def points_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """The box that holds each point: (P, 3 or more), (K, 7 or more) -> (P,) int64, -1 for none.

    A point in several boxes belongs to the first of them. Points on the surface are inside.
    """
    check_points("points_in_boxes", "points", points)
    check_box_rows("points_in_boxes", "boxes", boxes)
    none = len(boxes)
    if none == 0 or len(points) == 0:
        return torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    number = torch.arange(none, device=points.device)
    first = torch.cat([torch.where(part, number, none).amin(1) for part in _in_chunks(points, boxes)])
    return torch.where(first < none, first, -1)


def points_per_box(points: Tensor, boxes: Tensor) -> Tensor:
    """Points that each box holds: (P, 3 or more), (K, 7 or more) -> (K,) int64. Shared ones count in each."""
    check_points("points_per_box", "points", points)
    check_box_rows("points_per_box", "boxes", boxes)
    count = torch.zeros(len(boxes), dtype=torch.int64, device=points.device)
    for part in _in_chunks(points, boxes):
        count += part.sum(0)
    return count
