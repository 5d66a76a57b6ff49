"""Corners of boxes, and the axis-aligned bounds around them."""

import torch
from torch import Tensor

from .checks import check_box_rows

# front left, rear left, rear right, front right of a box that looks along +x: counter-clockwise from above
SIGNS = ((1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), (1.0, -1.0))


def bev_corners(boxes: Tensor) -> Tensor:
    """(N, 7 or more) -> (N, 4, 2) x and y: front left, rear left, rear right, front right."""
    check_box_rows("bev_corners", "boxes", boxes)
    x, y = (boxes.new_tensor(SIGNS) * boxes[:, None, 3:5] / 2).unbind(-1)
    cos, sin = boxes[:, 6:7].cos(), boxes[:, 6:7].sin()
    return torch.stack((x * cos - y * sin, x * sin + y * cos), -1) + boxes[:, None, :2]


def box_corners(boxes: Tensor) -> Tensor:
    """(N, 7 or more) -> (N, 8, 3): the four of ``bev_corners`` at the bottom, then the same at the top."""
    flat = bev_corners(boxes)
    low, high = boxes[:, 2] - boxes[:, 5] / 2, boxes[:, 2] + boxes[:, 5] / 2
    z = torch.stack((low, high), 1).repeat_interleave(4, 1)
    return torch.cat((flat.repeat(1, 2, 1), z[..., None]), -1)


def bev_bounds(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The axis-aligned rectangle around each box from above: low and high (N, 2) x and y."""
    cos, sin = boxes[:, 6].cos().abs(), boxes[:, 6].sin().abs()
    dx, dy = boxes[:, 3], boxes[:, 4]
    reach = torch.stack((dx * cos + dy * sin, dx * sin + dy * cos), 1) / 2
    return boxes[:, :2] - reach, boxes[:, :2] + reach
