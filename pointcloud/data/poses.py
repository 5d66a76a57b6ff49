"""Rigid motions as 4 x 4 matrices and quaternions (w, x, y, z), float64; points and boxes carried by them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def pose_matrix(translation: Sequence[float], rotation: Sequence[float]) -> np.ndarray:
    """(4, 4) from metres and a quaternion of any length above zero."""
    w, x, y, z = np.asarray(rotation, dtype=np.float64) / np.linalg.norm(rotation)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = translation
    return matrix


def yaw_quaternion(yaw: float) -> list[float]:
    """A turn about z."""
    return [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]


def multiply_quaternions(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """The turn b, then the turn a."""
    w, x, y, z = a
    s, i, j, k = b
    return [
        w * s - x * i - y * j - z * k,
        w * i + x * s + y * k - z * j,
        w * j - x * k + y * s + z * i,
        w * k + x * j - y * i + z * s,
    ]


def move_points(points: Tensor, matrix: np.ndarray) -> Tensor:
    """(N, 3 or more): x, y, z carried by a motion, the other values as they are."""
    motion = torch.from_numpy(np.ascontiguousarray(matrix))
    xyz = points[:, :3].double() @ motion[:3, :3].T + motion[:3, 3]
    return torch.cat((xyz.to(points), points[:, 3:]), 1)


def move_boxes(boxes: Tensor, matrix: np.ndarray) -> Tensor:
    """(K, 7 or 9) carried by a motion. Of the turned heading and velocity the part along x and y is kept:
    a box cannot tilt.
    """
    motion = torch.from_numpy(np.ascontiguousarray(matrix))
    rows = boxes.double().clone()
    rows[:, :3] = rows[:, :3] @ motion[:3, :3].T + motion[:3, 3]
    heading = torch.stack((rows[:, 6].cos(), rows[:, 6].sin()), 1) @ motion[:3, :2].T
    rows[:, 6] = torch.atan2(heading[:, 1], heading[:, 0])
    if boxes.shape[1] >= 9:
        rows[:, 7:9] = (rows[:, 7:9] @ motion[:3, :2].T)[:, :2]
    return rows.to(boxes)
