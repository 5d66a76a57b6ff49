"""What a detection does, told from its class and speed, as detectors without an attribute head do it.

Source: OpenPCDet's and mmdetection3d's rule; classes at rest have their most frequent attribute.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..records import Detections
from .nuscenes_tables import ATTRIBUTES

MOVING = 0.2  # metres a second
FAST = {
    **dict.fromkeys(("car", "truck", "construction_vehicle", "bus", "trailer"), "vehicle.moving"),
    **dict.fromkeys(("bicycle", "motorcycle"), "cycle.with_rider"),
    "pedestrian": "pedestrian.moving",
}
SLOW = {
    **dict.fromkeys(("car", "truck", "construction_vehicle", "trailer"), "vehicle.parked"),
    **dict.fromkeys(("bicycle", "motorcycle"), "cycle.without_rider"),
    "bus": "vehicle.stopped",
    "pedestrian": "pedestrian.standing",
}


def usual_attributes(found: Detections, classes: Sequence[str]) -> Tensor:
    """(K,) int64 into ``ATTRIBUTES``, -1 for cones and barriers. Boxes (K, 7) stand still."""
    velocity = found.boxes[:, 7:9].nan_to_num(nan=0.0)
    is_fast = velocity.norm(dim=1) > MOVING if velocity.shape[1] == 2 else [False] * len(found.boxes)
    names = [
        (FAST if fast else SLOW).get(classes[number])
        for fast, number in zip(is_fast, found.classes.tolist(), strict=True)
    ]
    return torch.tensor([-1 if name is None else ATTRIBUTES.index(name) for name in names], dtype=torch.int64)
