"""KITTI's average precision in BEV and in 3D, with KITTI's difficulties; needs no GPU and no compiler.

A detection is right if its overlap with a free object of its class exceeds the class's IoU threshold.
Objects beyond a difficulty, and those of a neighbouring class (a van for cars, a sitting person for
pedestrians), may be found but need not be. Detections lower in the picture than a difficulty asks are left
out. DontCare regions are of the picture and have no place in BEV or 3D: their rows are left out.
Source: KITTI, CVPR 2012; AP_R40, arXiv 1905.12365; heading similarity in 3D (AHS), arXiv 1712.02294.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...kernels.errors import ShapeError
from ..boxes import overlaps_bev_and_3d
from ..records import Detections
from .average_precision import ap_at_40
from .labels import KittiLabels, check_frames
from .matching import Array, Tally, heading_difference, match

KITTI_CLASSES = ("Car", "Pedestrian", "Cyclist")
IOU = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
NEIGHBOURS = {"Car": ("Van",), "Pedestrian": ("Person_sitting",)}
DIFFICULTIES = ("easy", "moderate", "hard")
HEIGHT, OCCLUSION, TRUNCATION = (40.0, 25.0, 25.0), (0, 1, 2), (0.15, 0.3, 0.5)


def kitti_difficulty(height: Tensor, occlusion: Tensor, truncation: Tensor) -> Tensor:
    """(K,) three times -> (K,) int64, the first level that counts an object: 0 easy, 1, 2 hard, 3 none.

    Args:
        height: of the 2D box in pixels; must exceed 40 (easy) or 25.
        occlusion: KITTI's 0 to 3; at most 0, 1, 2.
        truncation: the share outside the picture; at most .15, .3, .5.
    """
    levels = zip(HEIGHT, OCCLUSION, TRUNCATION, strict=True)
    fits = [(height > h) & (occlusion <= o) & (truncation <= t) for h, o, t in levels]
    return 3 - torch.stack(fits).sum(0)


def kitti_ap(
    detections: Sequence[Detections],
    labels: Sequence[KittiLabels],
    *,
    classes: Sequence[str] = KITTI_CLASSES,
    iou: Mapping[str, float] | None = None,
    heights: Sequence[Tensor] | None = None,
    recall: Literal["exact", "sampled"] = "exact",
) -> dict[str, dict[str, dict[str, float]]]:
    """Average precision at 40 recall positions, in percent.

    Args:
        detections: one a frame; ``classes`` of a detection index the argument ``classes``.
        labels: one a frame, in the same coordinates.
        iou: what an overlap must exceed, by class; None: .7 for Car, .5 for Pedestrian and Cyclist.
        heights: height in pixels of each detection's 2D box, one (D,) a frame; None: none is left out.
        recall: ``exact``: the definition. ``sampled``: with the positions that KITTI's own program picks
            (the two agree where there are many objects).
    Returns: ``{class: {"bev" | "3d" | "ahs": {"easy" | "moderate" | "hard": percent}}}``. ``ahs`` is ``3d``
        with every hit weighed by its heading, (1 + cos(difference)) / 2. NaN where no object counts.
    Raises: ValueError for lists of different length, unknown classes, boxes without extent.
    """
    check_frames("kitti_ap", detections, labels, classes)
    thresholds = dict(IOU if iou is None else iou)
    if missing := [name for name in classes if name not in thresholds]:
        raise ValueError(f"kitti_ap: iou must have a threshold for every class, got none for {missing}")
    if recall not in ("exact", "sampled"):
        raise ValueError(f"kitti_ap: recall must be 'exact' or 'sampled', got {recall!r}")
    frames = [_Frame(*frame) for frame in zip(detections, labels, _heights(detections, heights), strict=True)]
    out = {}
    for number, name in enumerate(classes):
        tallies = _tallies(frames, number, name, thresholds[name])
        out[name] = {
            word: {
                level: ap_at_40(tallies[metric, level], graded=graded, recall=recall)
                for level in DIFFICULTIES
            }
            for word, metric, graded in (("bev", "bev", False), ("3d", "3d", False), ("ahs", "3d", True))
        }
    return out


def _heights(detections: Sequence[Detections], heights: Sequence[Tensor] | None) -> list[Array]:
    if heights is None:
        return [np.full(len(found.boxes), np.inf) for found in detections]
    shapes = [tuple(height.shape) for height in heights]
    if shapes != [(len(found.boxes),) for found in detections]:
        raise ShapeError(f"kitti_ap: heights must be one a detection of each frame, got shapes {shapes}")
    return [height.double().cpu().numpy() for height in heights]


class _Frame:
    """A frame as arrays, its overlaps found once for all classes and difficulties."""

    def __init__(self, found: Detections, labels: KittiLabels, heights: Array) -> None:
        real = [row for row, name in enumerate(labels.names) if name != "DontCare"]
        boxes = labels.boxes.detach().cpu().double()[real]
        found_boxes = found.boxes.detach().cpu().double()
        bev, full = overlaps_bev_and_3d(found_boxes, boxes)
        self.overlaps = {"bev": bev.numpy(), "3d": full.numpy()}
        self.scores, self.heights = found.scores.detach().cpu().double().numpy(), heights
        self.classes = found.classes.cpu().numpy()
        self.names = np.array([labels.names[row] for row in real], dtype=object)
        self.difficulty = labels.difficulty.cpu().numpy()[real]
        angle = heading_difference(found_boxes[:, 6].numpy(), boxes[:, 6].numpy())
        self.similarity = (1 + np.cos(angle)) / 2


def _tallies(
    frames: Sequence[_Frame], number: int, name: str, threshold: float
) -> dict[tuple[str, str], Tally]:
    """Of a class: one tally for each metric and difficulty."""
    tallies = {(metric, level): Tally() for metric in ("bev", "3d") for level in DIFFICULTIES}
    known = (name, *NEIGHBOURS.get(name, ()))
    for frame in frames:
        objects = np.isin(frame.names, known).nonzero()[0]
        for rank, level in enumerate(DIFFICULTIES):
            ignored = (frame.names[objects] != name) | (frame.difficulty[objects] > rank)
            rows = ((frame.classes == number) & (frame.heights >= HEIGHT[rank])).nonzero()[0]
            for metric in ("bev", "3d"):
                overlaps = frame.overlaps[metric][np.ix_(rows, objects)]
                taken = match(overlaps, frame.scores[rows], ignored, threshold)
                weights = frame.similarity[np.ix_(rows, objects)]
                tallies[metric, level].add(frame.scores[rows], taken, ignored, weights)
    return tallies
