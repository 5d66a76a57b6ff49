"""An average precision in the manner of Waymo's, with headings. UNOFFICIAL: not the benchmark's program.

Where it differs from the official figure: matching is greedy by score (theirs is optimal), the whole curve is
used (theirs is sampled), levels come from the number of points alone (theirs also from annotators), and all
ranges are counted together. Do not compare its figures with the leaderboard's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..boxes import overlaps_3d
from ..records import Detections
from .average_precision import area_under
from .labels import CountedLabels, check_class_range, check_frames
from .matching import Tally, heading_difference, match

IOU = {"vehicle": 0.7, "pedestrian": 0.5, "cyclist": 0.5}
LEVELS = {"L1": 6, "L2": 1}  # points that an object must hold to count


def unofficial_waymo_ap(
    detections: Sequence[Detections],
    labels: Sequence[CountedLabels],
    *,
    classes: Sequence[str] = ("vehicle", "pedestrian", "cyclist"),
    iou: Mapping[str, float] | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """UNOFFICIAL AP and APH of 3D boxes, in percent: the area under precision over recall.

    L1 counts objects with more than 5 points, L2 all that hold a point; others may be found but need not be.
    APH weighs each hit in the precision by its heading, 1 - difference / pi.

    Args:
        detections: one a frame; their ``classes`` index the argument ``classes``.
        iou: the least overlap that is right, by class; None: .7 for vehicle, .5 for pedestrian and cyclist.
    Returns: ``{class: {"L1" | "L2": {"AP", "APH": percent}}}``; NaN where no object counts.
    Raises: ValueError for lists of different length, unknown classes, boxes without extent.
    """
    op = "unofficial_waymo_ap"
    check_frames(op, detections, labels, classes)
    for frame, objects in enumerate(labels):
        check_class_range(op, f"labels[{frame}].classes", objects.classes, classes)
    thresholds = dict(IOU if iou is None else iou)
    if missing := [name for name in classes if name not in thresholds]:
        raise ValueError(f"{op}: iou must have a threshold for every class, got none for {missing}")
    tallies = {(name, level): Tally() for name in classes for level in LEVELS}
    for found, objects in zip(detections, labels, strict=True):
        _add_frame(tallies, found, objects, classes, thresholds)
    return {
        name: {
            level: {
                "AP": area_under(tallies[name, level]),
                "APH": area_under(tallies[name, level], graded=True),
            }
            for level in LEVELS
        }
        for name in classes
    }


def _add_frame(
    tallies: Mapping[tuple[str, str], Tally],
    found: Detections,
    objects: CountedLabels,
    classes: Sequence[str],
    thresholds: Mapping[str, float],
) -> None:
    boxes, true_boxes = (rows.boxes.detach().cpu().double() for rows in (found, objects))
    overlaps = overlaps_3d(boxes, true_boxes).numpy()
    accuracy = 1 - heading_difference(boxes[:, 6].numpy(), true_boxes[:, 6].numpy()) / np.pi
    scores, points = found.scores.detach().cpu().double().numpy(), objects.num_points.cpu().numpy()
    for number, name in enumerate(classes):
        rows = (found.classes.cpu().numpy() == number).nonzero()[0]
        columns = (objects.classes.cpu().numpy() == number).nonzero()[0]
        cut = np.ix_(rows, columns)
        least = np.nextafter(thresholds[name], 0)  # an overlap equal to the threshold is right
        for level, count in LEVELS.items():
            ignored = points[columns] < count
            taken = match(overlaps[cut], scores[rows], ignored, least)
            tallies[name, level].add(scores[rows], taken, ignored, accuracy[cut])
