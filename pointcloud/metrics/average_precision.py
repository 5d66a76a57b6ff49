"""Average precision of a ranking: at 40 recall positions, or as the area under the curve.

Detections of equal score enter together, so their order never matters. Precision at recall r is the best
precision at any recall >= r. A curve may be graded: hits count by weight in the precision, not in the recall.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from .matching import Array, Tally

POSITIONS = 40


class Curve(NamedTuple):
    """One entry for each distinct score, best first: that score, hits so far (int), precision so far."""

    thresholds: Array
    hits: Array
    precision: Array


def curve(tally: Tally, graded: bool = False) -> Curve:
    """Precision where every detection down to a score is kept; with ``graded``, hits count by weight."""
    order = np.argsort(-tally.scores, kind="stable")
    scores = tally.scores[order]
    hits = np.cumsum(tally.hits[order])
    grade = np.cumsum(tally.weights[order]) if graded else hits
    last = np.append(scores[1:] != scores[:-1], True)[: len(scores)]
    kept = np.arange(1, len(scores) + 1)
    return Curve(scores[last], hits[last], (grade / kept)[last])


def ap_at_40(tally: Tally, *, graded: bool = False, recall: Literal["exact", "sampled"] = "exact") -> float:
    """Mean of the precision at recall 1/40, 2/40, ..., 1, in percent; NaN where there is nothing to find.

    ``exact`` takes the whole curve. ``sampled`` takes it at the scores that KITTI's own program picks for
    the 41 positions from 0 (the first is dropped): of fewer than 41 objects it cannot give 100.
    Source: arXiv 1905.12365 (AP_R40).
    """
    if tally.total == 0:
        return float("nan")
    points = curve(tally, graded)
    if recall == "sampled":
        at = np.searchsorted(-points.thresholds, -_sampled_scores(tally))
        read = _best_from(points.precision[at])[1 : POSITIONS + 1]
    else:
        wanted = np.arange(1, POSITIONS + 1) * tally.total  # recall >= k / 40, in whole numbers
        at = np.searchsorted(points.hits * POSITIONS, wanted)
        read = np.append(_best_from(points.precision), 0.0)[at]
    return 100.0 * float(read.sum()) / POSITIONS


def area_under(tally: Tally, *, graded: bool = False) -> float:
    """Integral of the precision over recall 0 to 1, in percent; NaN where there is nothing to find."""
    if tally.total == 0:
        return float("nan")
    points = curve(tally, graded)
    best = _best_from(points.precision)
    return 100.0 * float((np.diff(points.hits, prepend=0) * best).sum()) / tally.total


def _best_from(precision: Array) -> Array:
    """The best precision here or further down."""
    return np.maximum.accumulate(precision[::-1])[::-1]


def _sampled_scores(tally: Tally) -> Array:
    """Scores of hits nearest to recall 0, 1/40, 2/40, ...: a hit is passed over if the next one is nearer."""
    scores = np.sort(tally.scores[tally.hits])[::-1]
    picked, wanted = [], 0.0  # wanted is added up, as in KITTI's program: rounding decides ties
    for number, score in enumerate(scores):
        here, after = (number + 1) / tally.total, (number + 2) / tally.total
        if number + 1 < len(scores) and after - wanted < wanted - here:
            continue
        picked.append(score)
        wanted += 1 / POSITIONS
    return np.array(picked)
