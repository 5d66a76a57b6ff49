"""Detections as nuScenes' server takes them: one json of all samples, in the world's frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..records import Detections
from .nuscenes_attributes import usual_attributes
from .nuscenes_tables import ATTRIBUTES
from .poses import move_boxes, multiply_quaternions, yaw_quaternion

MOST = 500  # boxes a sample that the server takes
META = {
    "use_camera": False, "use_lidar": True, "use_radar": False, "use_map": False, "use_external": False,
}  # fmt: skip


def submission(
    detections: Mapping[str, Detections],
    to_global: Mapping[str, np.ndarray],
    classes: Sequence[str],
) -> dict[str, Any]:
    """The content of a submission file.

    Args:
        detections: by sample token, boxes in the LiDAR's frame; the best 500 of each are kept.
        to_global: by sample token, ``info["to_global"]`` of the frame, (4, 4).
    Boxes (K, 7) are written with velocity 0. Attributes follow ``usual_attributes``.
    Raises: ValueError for a sample whose ``to_global`` is missing.
    """
    missing = [token for token in detections if token not in to_global]
    if missing:
        raise ValueError(f"submission: to_global must have every sample, got none for {missing[0]}")
    results = {token: _rows(token, found, to_global[token], classes) for token, found in detections.items()}
    return {"meta": META, "results": results}


def _rows(token: str, found: Detections, motion: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    best = found.scores.detach().cpu().argsort(descending=True, stable=True)[:MOST]
    found = Detections(*(part.detach().cpu()[best] for part in found))
    boxes = torch.nn.functional.pad(found.boxes.double(), (0, 9 - found.boxes.shape[1]))
    moved = move_boxes(boxes, motion)
    turn = _quaternion(motion)
    rows = []
    for box, world, score, number, attribute in zip(
        boxes.tolist(), moved.tolist(), found.scores.tolist(), found.classes.tolist(),
        usual_attributes(found, classes).tolist(), strict=True,
    ):  # fmt: skip
        length, width, height = box[3:6]
        rows.append(
            {
                "sample_token": token,
                "translation": world[:3],
                "size": [width, length, height],
                "rotation": multiply_quaternions(turn, yaw_quaternion(box[6])),
                "velocity": world[7:9],
                "detection_name": classes[number],
                "detection_score": score,
                "attribute_name": "" if attribute < 0 else ATTRIBUTES[attribute],
            }
        )
    return rows


def _quaternion(motion: np.ndarray) -> list[float]:
    """The turn of a motion: the eigenvector of largest eigenvalue (Bar-Itzhack, 2000)."""
    r = np.asarray(motion)[:3, :3]
    k = np.array(
        [
            [r[0, 0] + r[1, 1] + r[2, 2], 0, 0, 0],
            [r[2, 1] - r[1, 2], r[0, 0] - r[1, 1] - r[2, 2], 0, 0],
            [r[0, 2] - r[2, 0], r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], 0],
            [r[1, 0] - r[0, 1], r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1]],
        ]
    )
    _, vectors = np.linalg.eigh(k)  # reads the lower triangle
    quaternion = vectors[:, -1]
    return (quaternion if quaternion[0] >= 0 else -quaternion).tolist()
