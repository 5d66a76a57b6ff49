"""nuScenes' detection metrics: average precision over centre distances, five errors of what was found, NDS.

    NDS = (5 mAP + sum over the five errors of 1 - min(1, error)) / 10

A detection is right if the nearest free object of its class lies within a distance (x and y). Precision is
read at 101 recalls; recall and precision below 10 % are cut off and the rest is scaled to 0..1.
Source: nuScenes, CVPR 2020, arXiv 1903.11027. The benchmark also leaves out bicycles and motorcycles inside
bicycle racks, which needs the racks' boxes: drop such labels and detections beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from ...kernels.errors import ShapeError
from ..records import Detections
from .labels import NuScenesLabels, check_class_range, check_frames
from .matching import Array, match
from .nuscenes_errors import ERRORS, NOT_MEASURED, Pairs, mean_over_recall, pair_errors

RANGES = {  # metres from the vehicle, x and y
    "car": 50.0,
    "truck": 50.0,
    "construction_vehicle": 50.0,
    "bus": 50.0,
    "trailer": 50.0,
    "barrier": 30.0,
    "motorcycle": 40.0,
    "bicycle": 40.0,
    "pedestrian": 40.0,
    "traffic_cone": 30.0,
}
NUSCENES_CLASSES = tuple(RANGES)
DISTANCES, ERROR_DISTANCE = (0.5, 1.0, 2.0, 4.0), 2.0
RECALLS, FIRST, MIN_PRECISION = np.linspace(0, 1, 101), 11, 0.1  # the first recall that is read is .11


Frame = tuple[dict[str, Array], dict[str, Array]]  # what was found, what is there


def nuscenes_metrics(
    detections: Sequence[Detections],
    labels: Sequence[NuScenesLabels],
    *,
    classes: Sequence[str] = NUSCENES_CLASSES,
    ranges: Mapping[str, float] = RANGES,
    attributes: Sequence[Tensor] | None = None,
) -> dict:
    """mAP, NDS and errors of a set of samples.

    Args:
        detections: one a sample, boxes (K, 9), the vehicle at the origin; boxes (K, 7) have no velocity, and
            the velocity error of what they find is 1. Their ``classes`` index the argument ``classes``.
        labels: one a sample, in the same coordinates.
        classes: what mAP and errors average over; a class that was never labelled has AP 0 and errors 1.
        ranges: metres from the vehicle, by class; labels and detections beyond are left out.
        attributes: (K,) int64 a sample, numbered as the labels'; None: every attribute is wrong.
    Returns: ``{"NDS", "mAP", "errors": {"ATE" m, "ASE" 1 - IoU, "AOE" rad, "AVE" m/s, "AAE" 1 - share right},
        "classes": {class: {"AP", "AP@0.5", ..., "ATE", ...}}}``, as shares, not percent. A class's error is
        NaN where it is not measured: cones have no heading, cones and barriers no velocity and no attribute.
    Raises: ValueError for lists of different length, unknown classes.
    """
    op = "nuscenes_metrics"
    check_frames(op, detections, labels, classes)
    for frame, objects in enumerate(labels):
        check_class_range(op, f"labels[{frame}].classes", objects.classes, classes)
    if missing := [name for name in classes if name not in ranges]:
        raise ValueError(f"{op}: ranges must have a distance for every class, got none for {missing}")
    frames = [
        _arrays(*frame) for frame in zip(detections, labels, _attributes(detections, attributes), strict=True)
    ]
    rows = {name: _class_row(frames, number, name, ranges[name]) for number, name in enumerate(classes)}
    mean_ap = float(np.mean([row["AP"] for row in rows.values()]))
    errors = {error: _nan_mean([row[error] for row in rows.values()]) for error in ERRORS}
    scores = [0.0 if math.isnan(error) else 1 - min(1.0, error) for error in errors.values()]
    return {"NDS": (5 * mean_ap + sum(scores)) / 10, "mAP": mean_ap, "errors": errors, "classes": rows}


def _attributes(detections: Sequence[Detections], attributes: Sequence[Tensor] | None) -> list[Array]:
    if attributes is None:
        return [np.full(len(found.boxes), -1) for found in detections]
    shapes = [tuple(one.shape) for one in attributes]
    if shapes != [(len(found.boxes),) for found in detections]:
        raise ShapeError(f"nuscenes_metrics: attributes must be one a detection of each sample, got {shapes}")
    return [one.cpu().numpy() for one in attributes]


def _arrays(found: Detections, objects: NuScenesLabels, attributes: Array) -> Frame:
    boxes = found.boxes.detach().cpu().double().numpy()
    if boxes.shape[1] < 9:
        boxes = np.concatenate((boxes[:, :7], np.full((len(boxes), 2), np.nan)), 1)
    held = objects.num_points.cpu().numpy() > 0
    return (
        {
            "boxes": boxes,
            "classes": found.classes.cpu().numpy(),
            "scores": found.scores.detach().cpu().double().numpy(),
            "attributes": attributes,
        },
        {
            "boxes": objects.boxes.detach().cpu().double().numpy()[held],
            "classes": objects.classes.cpu().numpy()[held],
            "attributes": objects.attributes.cpu().numpy()[held],
        },
    )


def _of_class(side: dict[str, Array], number: int, reach: float) -> dict[str, Array]:
    near = np.hypot(side["boxes"][:, 0], side["boxes"][:, 1]) < reach
    keep = near & (side["classes"] == number)
    return {name: values[keep] for name, values in side.items()}


def _class_row(frames: Sequence[Frame], number: int, name: str, reach: float) -> dict[str, float]:
    cut = [tuple(_of_class(side, number, reach) for side in frame) for frame in frames]
    total = sum(len(objects["boxes"]) for _, objects in cut)
    row = {"AP": 0.0}
    for distance in DISTANCES:
        hits = _ranking(cut, distance)[1]
        row[f"AP@{distance:g}"] = _average_precision(hits, total)
    row["AP"] = float(np.mean([row[f"AP@{distance:g}"] for distance in DISTANCES]))
    scores, hits, pairs = _ranking(cut, ERROR_DISTANCE)
    confidence = _over_recall(hits, total, scores) if hits.any() else np.zeros(len(RECALLS))
    for error, values in pair_errors(pairs, half_turn=name == "barrier").items():
        row[error] = mean_over_recall(values, scores[hits], confidence, FIRST)
    return row | dict.fromkeys(NOT_MEASURED.get(name, ()), float("nan"))


def _ranking(frames: Sequence[Frame], distance: float) -> tuple[Array, Array, Pairs]:
    """Over all samples, best first: scores (D,), which found something (D,), and the pairs of those."""
    scores, hits = [np.zeros(0)], [np.zeros(0, dtype=bool)]
    sides = [[np.zeros((0, 9))], [np.zeros(0)], [np.zeros((0, 9))], [np.zeros(0)]]
    for found, objects in frames:
        offset = found["boxes"][:, None, :2] - objects["boxes"][None, :, :2]
        apart = np.hypot(offset[..., 0], offset[..., 1])
        free = np.zeros(len(objects["boxes"]), dtype=bool)
        taken = match(-apart, found["scores"], free, -distance)
        hit = taken >= 0
        scores.append(found["scores"])
        hits.append(hit)
        sides[0].append(found["boxes"][hit])
        sides[1].append(found["attributes"][hit])
        sides[2].append(objects["boxes"][taken[hit]])
        sides[3].append(objects["attributes"][taken[hit]])
    all_scores, all_hits = np.concatenate(scores), np.concatenate(hits)
    order = np.argsort(-all_scores, kind="stable")
    among_hits = np.argsort(-all_scores[all_hits], kind="stable")
    pairs = Pairs(*(np.concatenate(side)[among_hits] for side in sides))
    return all_scores[order], all_hits[order], pairs


def _over_recall(hits: Array, total: int, values: Array) -> Array:
    """Values (D,) of a ranking read at RECALLS, 0 where the recall is not reached."""
    return np.interp(RECALLS, hits.cumsum() / total, values, right=0)


def _average_precision(hits: Array, total: int) -> float:
    if not hits.any():
        return 0.0
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    read = _over_recall(hits, total, precision)[FIRST:]
    return float((read - MIN_PRECISION).clip(min=0).mean()) / (1 - MIN_PRECISION)


def _nan_mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else float("nan")
