"""Anchors: boxes of one size a class, at two yaws in every cell of a map, and boxes told as what differs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cells import MapCells
from .center_code import LARGEST

YAWS = (0.0, math.pi / 2)
TURN = math.pi / 4  # yaws from here on, half a turn, are direction 0; the others are 1


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """Of a class: size (dx, dy, dz) and the height of its bottom, metres.

    matched, unmatched: overlap with a labelled box from which an anchor answers for it, and below which it
    answers for nothing; in between it is not trained.
    """

    size: tuple[float, float, float]
    bottom: float
    matched: float
    unmatched: float

    def __post_init__(self) -> None:
        if len(self.size) != 3 or not all(s > 0 for s in self.size):
            raise ValueError(f"size must be three lengths (dx, dy, dz) in metres > 0, got {self.size}")
        if not 0 <= self.unmatched <= self.matched <= 1:
            got = f"unmatched {self.unmatched}, matched {self.matched}"
            raise ValueError(f"overlaps must be 0 <= unmatched <= matched <= 1, got {got}")


KITTI_ANCHORS = {
    "car": Anchor(size=(3.9, 1.6, 1.56), bottom=-1.78, matched=0.6, unmatched=0.45),
    "pedestrian": Anchor(size=(0.8, 0.6, 1.73), bottom=-0.6, matched=0.5, unmatched=0.35),
    "cyclist": Anchor(size=(1.76, 0.6, 1.73), bottom=-0.6, matched=0.5, unmatched=0.35),
}


def anchor_boxes(anchors: Sequence[Anchor], cells: MapCells, device: torch.device | None = None) -> Tensor:
    """(Y, X, classes, 2, 7) float32: in the middle of each cell, class by class, yaw 0 and a quarter turn."""
    height, width = cells.shape
    column = torch.arange(width, device=device)[None, :].expand(height, width)
    row = torch.arange(height, device=device)[:, None].expand(height, width)
    xy = cells.to_metres(torch.stack((column, row), dim=-1) + 0.5)
    boxes = xy.new_empty(height, width, len(anchors), len(YAWS), 7)
    boxes[..., :2] = xy[:, :, None, None]
    for kind, anchor in enumerate(anchors):
        boxes[:, :, kind, :, 2] = anchor.bottom + anchor.size[2] / 2
        boxes[:, :, kind, :, 3:6] = xy.new_tensor(anchor.size)
    boxes[..., 6] = xy.new_tensor(YAWS)
    return boxes


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes and anchors (K, >= 7) -> (K, 7): centres in units of the anchor, log ratios of sizes, yaw apart.

    x and y are in diagonals of the anchor from above, z in its heights.
    """
    diagonal = anchors[:, 3:5].norm(dim=1, keepdim=True)
    xy = (boxes[:, :2] - anchors[:, :2]) / diagonal
    z = (boxes[:, 2:3] - anchors[:, 2:3]) / anchors[:, 5:6]
    return torch.cat((xy, z, (boxes[:, 3:6] / anchors[:, 3:6]).log(), boxes[:, 6:7] - anchors[:, 6:7]), dim=1)


def decode(code: Tensor, anchors: Tensor, direction: Tensor) -> Tensor:
    """Codes and anchors (K, 7), direction (K,) 0 or 1 -> boxes (K, 7).

    The code says the yaw up to half a turn, the direction says which half.
    """
    diagonal = anchors[:, 3:5].norm(dim=1, keepdim=True)
    xy = code[:, :2] * diagonal + anchors[:, :2]
    z = code[:, 2:3] * anchors[:, 5:6] + anchors[:, 2:3]
    sizes = code[:, 3:6].clamp(-LARGEST, LARGEST).exp() * anchors[:, 3:6]
    yaw = torch.remainder(code[:, 6] + anchors[:, 6] - TURN, math.pi) + TURN + math.pi * direction.to(code)
    return torch.cat((xy, z, sizes, yaw[:, None]), dim=1)


def direction_of(yaw: Tensor) -> Tensor:
    """Yaws, any shape -> 0 where they are within half a turn after ``TURN``, else 1; int64."""
    return (torch.remainder(yaw - TURN, 2 * math.pi) >= math.pi).long()
