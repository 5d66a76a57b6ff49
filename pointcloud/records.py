"""A frame of LiDAR points, what is labelled in it, and what a detector found in it.

Boxes are rows (x, y, z, dx, dy, dz, yaw[, vx, vy]): metres, (x, y, z) is the centre, yaw in radians
counter-clockwise from +x, and at yaw 0 dx lies along the heading. Velocities are metres a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor


class Labels(NamedTuple):
    """What is in a frame: boxes (K, 7 or 9), and the index of each one's class, (K,) int64 from 0."""

    boxes: Tensor
    classes: Tensor


class Detections(NamedTuple):
    """What was found in a frame, best first: boxes (K, 7 or 9), scores (K,) in 0..1, classes (K,) int64."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One LiDAR sweep, or several merged into one.

    points: (N, 3 + extras) float32: x, y, z in metres, then what the data set measures (intensity, ...).
    labels: boxes and class indices; no rows where nothing is labelled.
    name: unique in its data set.
    info: what only some data sets have (``difficulty`` (K,), ``num_points`` (K,), ``calib``, ...).
    """

    points: Tensor
    labels: Labels
    name: str
    info: Mapping[str, Any] = field(default_factory=dict)
