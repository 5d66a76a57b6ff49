"""What the synthetic scenes are scored by: AP in 3D and BEV, and how far centres and headings are off.

Precision matches by overlap. Errors and recall match by centre alone (the nearest within ``distance`` metres
in x and y), so that a wrong heading shows in the yaw error and not as a missing box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..boxes import overlaps_bev_and_3d
from ..records import Detections
from .average_precision import ap_at_40
from .labels import CountedLabels, check_class_range, check_frames
from .matching import Array, Tally, heading_difference, match

LEVELS = {"easy": 100, "moderate": 30, "hard": 5}  # points that an object must hold to count


def synthetic_metrics(
    detections: Sequence[Detections],
    labels: Sequence[CountedLabels],
    *,
    classes: Sequence[str],
    iou: Mapping[str, float],
    levels: Mapping[str, int] = LEVELS,
    distance: float = 1.0,
    min_score: float = 0.3,
) -> dict[str, dict]:
    """Scores by class and by the number of points on an object.

    Args:
        detections: one a frame; their ``classes`` index the argument ``classes``.
        iou: what an overlap must exceed in ``ap_3d`` and ``ap_bev``, by class.
        levels: how many points an object must hold to count; objects with fewer may be found but need not be.
        distance: metres between centres (x, y) below which a detection has found an object.
        min_score: detections that recall and errors look at; precision looks at all.
    Returns: ``{"classes": {class: {level: row}}, "mean": {level: row}}``. A row holds ``ap_3d``, ``ap_bev``
        (percent, 40 recall positions), ``recall`` (percent), ``centre_error`` (metres, x and y and z),
        ``yaw_error_pi`` and ``yaw_error_2pi`` (mean absolute degrees, modulo a half and a whole turn),
        ``objects`` and ``matched`` (counts). NaN where nothing counts or matches; the mean is over the
        classes that are not NaN, counts are summed.
    Raises: ValueError for lists of different length, unknown classes, boxes without extent.
    """
    check_frames("synthetic_metrics", detections, labels, classes)
    for frame, objects in enumerate(labels):
        check_class_range("synthetic_metrics", f"labels[{frame}].classes", objects.classes, classes)
    if missing := [name for name in classes if name not in iou]:
        raise ValueError(
            f"synthetic_metrics: iou must have a threshold for every class, got none for {missing}"
        )
    if not distance > 0:
        raise ValueError(f"synthetic_metrics: distance must be metres > 0, got {distance}")
    frames = [_Frame(*frame) for frame in zip(detections, labels, strict=True)]
    rows: dict[str, dict[str, dict]] = {name: {} for name in classes}
    for number, name in enumerate(classes):
        for level, points in levels.items():
            score = _Score()
            for frame in frames:
                score.add(frame.of_class(number), iou[name], points, distance, min_score)
            rows[name][level] = score.row()
    return {
        "classes": rows,
        "mean": {level: _mean([rows[name][level] for name in classes]) for level in levels},
    }


class _Frame:
    """Everything about the pairs of a frame, as arrays (D,), (G,), (D, G)."""

    def __init__(self, found: Detections, objects: CountedLabels) -> None:
        a, b = (rows.boxes.detach().cpu().double() for rows in (found, objects))
        bev, full = overlaps_bev_and_3d(a, b)
        offset = (a[:, None, :3] - b[None, :, :3]).numpy()
        self.pairs = {
            "bev": bev.numpy(),
            "3d": full.numpy(),
            "apart": np.hypot(offset[..., 0], offset[..., 1]),
            "centre": np.sqrt((offset**2).sum(-1)),
            "yaw": heading_difference(a[:, 6].numpy(), b[:, 6].numpy()),
        }
        self.scores, self.points = (
            found.scores.detach().cpu().double().numpy(),
            objects.num_points.cpu().numpy(),
        )
        self.found_classes, self.classes = found.classes.cpu().numpy(), objects.classes.cpu().numpy()

    def of_class(self, number: int) -> tuple[dict[str, Array], Array, Array]:
        """Pairs, scores of detections and points on objects, of one class."""
        rows, columns = (self.found_classes == number).nonzero()[0], (self.classes == number).nonzero()[0]
        cut = np.ix_(rows, columns)
        pairs = {name: values[cut] for name, values in self.pairs.items()}
        return pairs, self.scores[rows], self.points[columns]


@dataclass
class _Score:
    """One class at one level, over the frames."""

    tallies: dict[str, Tally] = field(default_factory=lambda: {"bev": Tally(), "3d": Tally()})
    centre: list[Array] = field(default_factory=list)
    yaw: list[Array] = field(default_factory=list)

    def add(
        self,
        frame: tuple[dict[str, Array], Array, Array],
        iou: float,
        points: int,
        distance: float,
        min_score: float,
    ) -> None:
        pairs, scores, held = frame
        ignored = held < points
        for metric, tally in self.tallies.items():
            tally.add(scores, match(pairs[metric], scores, ignored, iou), ignored)
        sure = (scores >= min_score).nonzero()[0]
        taken = match(-pairs["apart"][sure], scores[sure], ignored, -distance)
        counted = (taken >= 0).nonzero()[0]
        counted = counted[~ignored[taken[counted]]]
        place = (sure[counted], taken[counted])
        self.centre.append(pairs["centre"][place])
        self.yaw.append(pairs["yaw"][place])

    def row(self) -> dict[str, float | int]:
        objects = self.tallies["3d"].total
        centre = np.concatenate([np.zeros(0), *self.centre])
        yaw = np.degrees(np.concatenate([np.zeros(0), *self.yaw]))
        return {
            "ap_3d": ap_at_40(self.tallies["3d"]),
            "ap_bev": ap_at_40(self.tallies["bev"]),
            "recall": 100.0 * len(centre) / objects if objects else float("nan"),
            "centre_error": _average(centre),
            "yaw_error_pi": _average(np.minimum(yaw, 180.0 - yaw)),
            "yaw_error_2pi": _average(yaw),
            "objects": objects,
            "matched": len(centre),
        }


def _average(values: Array) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float | int]:
    """Over classes: counts add up, the others are averaged where they are numbers."""
    out: dict[str, float | int] = {}
    for name in rows[0] if rows else ():
        values = np.array([row[name] for row in rows])
        counts = name in ("objects", "matched")
        out[name] = int(values.sum()) if counts else _average(values[~np.isnan(values)])
    return out
