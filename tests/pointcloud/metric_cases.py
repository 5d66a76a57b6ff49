"""Detections and labels of frames for hand-made cases."""

import torch

from linzoo.pointcloud.metrics import CountedLabels, KittiLabels, NuScenesLabels
from linzoo.pointcloud.records import Detections


def row_of_boxes(n: int, width: int = 7, size=(4.0, 2.0, 1.5), start: float = 0.0) -> torch.Tensor:
    """n boxes, 10 m apart along x."""
    boxes = torch.zeros(n, width, dtype=torch.float64)
    boxes[:, 0] = start + 10.0 * torch.arange(n)
    boxes[:, 3:6] = torch.tensor(size, dtype=torch.float64)
    return boxes


def found(boxes: torch.Tensor, scores=None, classes=None) -> Detections:
    """Detections; scores fall from .9 unless given, all of class 0 unless given."""
    n = len(boxes)
    scores = torch.linspace(0.9, 0.5, n) if scores is None else torch.tensor(scores)
    classes = torch.zeros(n, dtype=torch.int64) if classes is None else torch.tensor(classes)
    return Detections(boxes, scores, classes)


def kitti(boxes: torch.Tensor, names="Car", difficulty=0) -> KittiLabels:
    n = len(boxes)
    names = [names] * n if isinstance(names, str) else names
    difficulty = [difficulty] * n if isinstance(difficulty, int) else difficulty
    return KittiLabels(
        boxes=boxes, names=names, difficulty=torch.tensor(difficulty, dtype=torch.int64).view(n)
    )


def nuscenes(boxes: torch.Tensor, classes=0, attributes=0, num_points=10) -> NuScenesLabels:
    n = len(boxes)
    columns = [
        torch.tensor([value] * n if isinstance(value, int) else value, dtype=torch.int64).view(n)
        for value in (classes, attributes, num_points)
    ]
    return NuScenesLabels(boxes=boxes, classes=columns[0], attributes=columns[1], num_points=columns[2])


def counted(boxes: torch.Tensor, classes=0, num_points=200) -> CountedLabels:
    n = len(boxes)
    columns = [
        torch.tensor([value] * n if isinstance(value, int) else value, dtype=torch.int64).view(n)
        for value in (classes, num_points)
    ]
    return CountedLabels(boxes=boxes, classes=columns[0], num_points=columns[1])
