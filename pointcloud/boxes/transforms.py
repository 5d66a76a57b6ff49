"""Moving points and boxes alike: turn about z, mirror, scale, shift. Every function returns a new tensor.

Columns that a transform does not concern (intensity, time lag) are kept; velocities (columns 7 and 8 of a
box) turn, mirror and scale with their box.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from .checks import check_box_rows, check_points


def wrap_angle(angle: Tensor, period: float = 2 * math.pi) -> Tensor:
    """The same angle, less whole periods, in [-period / 2, period / 2)."""
    half = period / 2
    wrapped = torch.remainder(angle + half, period) - half
    return torch.where(wrapped >= half, wrapped - period, wrapped)  # remainder may round up to period itself


def _turned(xy: Tensor, angle: float) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = xy.unbind(1)
    return torch.stack((x * cos - y * sin, x * sin + y * cos), 1)


def rotate_points(points: Tensor, angle: float) -> Tensor:
    """(P, 3 or more), turned by ``angle`` radians counter-clockwise about the z axis of the frame."""
    check_points("rotate_points", "points", points)
    return torch.cat((_turned(points[:, :2], angle), points[:, 2:]), 1)


def rotate_boxes(boxes: Tensor, angle: float) -> Tensor:
    """(N, 7 or 9), turned by ``angle`` radians counter-clockwise about the z axis of the frame."""
    check_box_rows("rotate_boxes", "boxes", boxes)
    out = boxes.clone()
    out[:, :2] = _turned(boxes[:, :2], angle)
    out[:, 6] += angle
    if boxes.shape[1] >= 9:
        out[:, 7:9] = _turned(boxes[:, 7:9], angle)
    return out


def _axis(op: str, negate: str) -> int:
    if negate not in ("x", "y"):
        raise ValueError(f"{op}: negate must be 'x' or 'y', the coordinate that changes sign, got {negate!r}")
    return "xy".index(negate)


def mirror_points(points: Tensor, negate: Literal["x", "y"]) -> Tensor:
    """(P, 3 or more) with the sign of one coordinate changed; ``y``: a flip along x in OpenPCDet."""
    check_points("mirror_points", "points", points)
    out, axis = points.clone(), _axis("mirror_points", negate)
    out[:, axis] = -out[:, axis]
    return out


def mirror_boxes(boxes: Tensor, negate: Literal["x", "y"]) -> Tensor:
    """(N, 7 or 9) mirrored as ``mirror_points`` mirrors what they hold."""
    check_box_rows("mirror_boxes", "boxes", boxes)
    out, axis = boxes.clone(), _axis("mirror_boxes", negate)
    out[:, axis] = -out[:, axis]
    out[:, 6] = -out[:, 6] if negate == "y" else math.pi - out[:, 6]
    if boxes.shape[1] >= 9:
        out[:, 7 + axis] = -out[:, 7 + axis]
    return out


def _factor(op: str, factor: float) -> None:
    if not factor > 0:
        raise ValueError(f"{op}: factor must be > 0, got {factor}")


def scale_points(points: Tensor, factor: float) -> Tensor:
    """(P, 3 or more) with x, y, z multiplied by ``factor``."""
    check_points("scale_points", "points", points)
    _factor("scale_points", factor)
    return torch.cat((points[:, :3] * factor, points[:, 3:]), 1)


def scale_boxes(boxes: Tensor, factor: float) -> Tensor:
    """(N, 7 or 9) with centres, sizes and velocities multiplied by ``factor``."""
    check_box_rows("scale_boxes", "boxes", boxes)
    _factor("scale_boxes", factor)
    out = boxes * factor
    out[:, 6] = boxes[:, 6]
    return out


def translate(rows: Tensor, offset: tuple[float, float, float] | Tensor) -> Tensor:
    """Points or boxes (N, 3 or more) shifted by x, y, z metres."""
    check_points("translate", "rows", rows)
    return torch.cat((rows[:, :3] + torch.as_tensor(offset).to(rows), rows[:, 3:]), 1)
