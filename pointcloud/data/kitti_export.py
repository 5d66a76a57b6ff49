"""Detections as KITTI's benchmark and its tools read them: a text file a frame, in the camera frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..records import Detections
from .kitti_camera import Camera, boxes_from_labels, labels_from_boxes, observation_angles, picture_boxes
from .kitti_files import read_labels


def kitti_lines(found: Detections, camera: Camera, classes: Sequence[str]) -> str:
    """A line a detection: type, -1, -1 (truncation, occlusion), alpha, 2D box, h w l, x y z, ry, score.

    The 2D box is the projected 3D box, cut at the picture's edge. Detections that the picture does not show
    are left out, as KITTI labels none there.
    """
    boxes = found.boxes.detach().cpu()
    flat = picture_boxes(camera, boxes)
    sizes, bottoms, ry = labels_from_boxes(camera, boxes)
    alpha = observation_angles(bottoms, ry)
    angles, scores = (alpha[:, None], ry[:, None]), found.scores.detach().cpu().double()[:, None]
    rows = torch.cat((angles[0], flat, sizes, bottoms, angles[1], scores), 1)
    shown = (flat[:, 2:] > flat[:, :2]).all(1)
    names = [classes[number] for number in found.classes.tolist()]
    return "".join(
        f"{name} -1 -1 {' '.join(f'{value:.6f}' for value in row)}\n"
        for name, row, is_shown in zip(names, rows.tolist(), shown.tolist(), strict=True)
        if is_shown
    )


def read_kitti_detections(path: str | Path, camera: Camera, classes: Sequence[str]) -> Detections:
    """The inverse: a file of such lines as boxes in the LiDAR frame, best first. Other types are left out.

    Raises: FileNotFoundError; ValueError naming the file, for a line that is no detection.
    """
    rows = [row for row in read_labels(Path(path)) if row["name"] in classes]
    if any("score" not in row for row in rows):
        raise ValueError(f"{path}: every line must end with a score, one has none")
    rows.sort(key=lambda row: -row["score"])
    names = ("height", "width", "length", "x", "y", "z", "ry", "score")
    table = torch.tensor([[row[name] for name in names] for row in rows], dtype=torch.float64)
    table = table.reshape(len(rows), len(names))
    boxes = boxes_from_labels(camera, table[:, :3], table[:, 3:6], table[:, 6])
    numbers = torch.tensor([classes.index(row["name"]) for row in rows], dtype=torch.int64)
    return Detections(boxes.float(), table[:, 7].float(), numbers)
