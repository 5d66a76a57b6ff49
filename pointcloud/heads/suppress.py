"""The last steps from scored boxes to detections."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..boxes import nms_by_class
from ..records import Detections


def within(boxes: Tensor, limit: Sequence[float] | None) -> Tensor:
    """Which centres (K, >= 3) lie in low x, y, z .. high x, y, z: (K,) bool; all of them without a limit."""
    if limit is None:
        return torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    low, high = boxes.new_tensor(limit).split(3)
    return ((boxes[:, :3] >= low) & (boxes[:, :3] <= high)).all(dim=1)


def rescore(scores: Tensor, classes: Tensor, overlap: Tensor, powers: Sequence[float]) -> Tensor:
    """score^(1 - a) * iou^a with a of each box's class; overlap (K,) is predicted on -1..1. (K,)."""
    a = scores.new_tensor(powers)[classes]
    iou = ((overlap + 1) / 2).clamp(0, 1)
    return scores ** (1 - a) * iou**a


def suppress(
    found: Detections, thresholds: Sequence[float | None], pre: int | None, post: int | None
) -> Detections:
    """Rotated non-maximum suppression within each class; None leaves a class as it is. Best first."""
    boxes, scores, classes = found
    kept = nms_by_class(boxes, scores, classes, thresholds, pre, post)
    return Detections(boxes[kept], scores[kept], classes[kept])
