"""What each metric must know about the labelled objects of a frame, beside boxes and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.errors import ShapeError
from ..boxes import points_per_box
from ..boxes.checks import check_box_rows
from ..records import Detections, Labels


@dataclass(frozen=True, kw_only=True)
class KittiLabels:
    """Every label line of a frame, also of classes that are not scored.

    boxes: (K, 7) in the frame of the detections; rows of DontCare may hold anything.
    names: the type of each, as KITTI writes it ("Car", "Van", "DontCare", ...).
    difficulty: (K,) int64, the first level that counts it: 0 easy, 1 moderate, 2 hard, 3 none;
        ``kitti_difficulty`` makes it from the label's facts.
    """

    boxes: Tensor
    names: Sequence[str]
    difficulty: Tensor

    def __post_init__(self) -> None:
        check_box_rows("KittiLabels", "boxes", self.boxes)
        if len(self.names) != len(self.boxes):
            raise ShapeError(
                f"KittiLabels: names must be one a box ({len(self.boxes)}), got {len(self.names)}"
            )
        _check_column("KittiLabels", "difficulty", self.difficulty, self.boxes)


@dataclass(frozen=True, kw_only=True)
class NuScenesLabels:
    """Labels of a sample, with the vehicle at the origin (class ranges are measured from there).

    boxes: (K, 9), velocities NaN where unknown.  classes: (K,) int64 from 0.
    attributes: (K,) int64, any numbering, -1 where the object has none.
    num_points: (K,) int64, LiDAR and radar points in the box; objects with none are not counted.
    """

    boxes: Tensor
    classes: Tensor
    attributes: Tensor
    num_points: Tensor

    def __post_init__(self) -> None:
        check_box_rows("NuScenesLabels", "boxes", self.boxes)
        if self.boxes.shape[1] != 9:
            raise ShapeError(
                f"NuScenesLabels: boxes must be (K, 9), with velocities, got {tuple(self.boxes.shape)}"
            )
        for name in ("classes", "attributes", "num_points"):
            _check_column("NuScenesLabels", name, getattr(self, name), self.boxes)


@dataclass(frozen=True, kw_only=True)
class CountedLabels:
    """Labels whose difficulty is the number of points on them.

    boxes: (K, 7 or 9).  classes: (K,) int64 from 0.  num_points: (K,) int64.
    """

    boxes: Tensor
    classes: Tensor
    num_points: Tensor

    def __post_init__(self) -> None:
        check_box_rows("CountedLabels", "boxes", self.boxes)
        for name in ("classes", "num_points"):
            _check_column("CountedLabels", name, getattr(self, name), self.boxes)


def count_points(labels: Labels, points: Tensor) -> CountedLabels:
    """The labels of a frame with the points (P, 3 or more) that lie in each box."""
    counts = points_per_box(points, labels.boxes)
    return CountedLabels(boxes=labels.boxes, classes=labels.classes, num_points=counts)


def check_frames(op: str, detections: Sequence[Detections], labels: Sequence, classes: Sequence[str]) -> None:
    """One set of labels for each set of detections, and detections that fit the classes."""
    if len(detections) != len(labels):
        raise ValueError(
            f"{op}: labels must be one a frame, got {len(labels)} for the detections of {len(detections)}"
        )
    for number, found in enumerate(detections):
        where = f"detections[{number}]"
        check_box_rows(op, f"{where}.boxes", found.boxes)
        for name in ("scores", "classes"):
            column = getattr(found, name)
            if column.shape != found.boxes.shape[:1]:
                raise ShapeError(
                    f"{op}: {where}.{name} must be one a box ({len(found.boxes)},), got {tuple(column.shape)}"
                )
        if not bool(found.scores.isfinite().all()):
            raise ValueError(f"{op}: {where}.scores must be finite, got {found.scores.tolist()}")
        if not bool(found.boxes[:, :7].isfinite().all()):
            row = int((~found.boxes[:, :7].isfinite()).any(1).nonzero()[0])
            raise ValueError(
                f"{op}: {where}.boxes must be finite, got row {row}: {found.boxes[row, :7].tolist()}"
            )
        check_class_range(op, f"{where}.classes", found.classes, classes)


def check_class_range(op: str, name: str, numbers: Tensor, classes: Sequence[str]) -> None:
    if len(numbers) and not (int(numbers.min()) >= 0 and int(numbers.max()) < len(classes)):
        wanted = f"lie in 0..{len(classes) - 1} ({', '.join(classes)})"
        raise ValueError(f"{op}: {name} must {wanted}, got {sorted(set(numbers.tolist()))}")


def _check_column(op: str, name: str, column: Tensor, boxes: Tensor) -> None:
    if column.shape != boxes.shape[:1] or column.dtype != torch.int64:
        got = f"{tuple(column.shape)} {column.dtype}"
        raise ShapeError(f"{op}: {name} must be ({len(boxes)},) int64, got {got}")
