"""nuScenes' five errors of right detections, and how each is averaged over recall.

ATE metres between centres (x, y); ASE 1 - IoU of the boxes laid on each other; AOE radians between
headings; AVE m/s between velocities; AAE 0 or 1, whether the attribute is wrong. Unknown values are NaN and
not averaged.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .matching import Array

ERRORS = ("ATE", "ASE", "AOE", "AVE", "AAE")
NOT_MEASURED = {"traffic_cone": ("AOE", "AVE", "AAE"), "barrier": ("AVE", "AAE")}


class Pairs(NamedTuple):
    """What was found and the object that it is, row by row: boxes (T, 9), attributes (T,), -1 for none."""

    found: Array
    found_attributes: Array
    objects: Array
    attributes: Array


def pair_errors(pairs: Pairs, *, half_turn: bool) -> dict[str, Array]:
    """(T,) each; with ``half_turn`` a heading and its opposite are the same."""
    a, b = pairs.found, pairs.objects
    shared = np.minimum(a[:, 3:6], b[:, 3:6]).prod(1)
    period = np.pi if half_turn else 2 * np.pi
    turn = np.remainder(a[:, 6] - b[:, 6] + period / 2, period) - period / 2
    wrong = (pairs.found_attributes != pairs.attributes).astype(np.float64)
    return {
        "ATE": np.hypot(a[:, 0] - b[:, 0], a[:, 1] - b[:, 1]),
        "ASE": 1 - shared / (a[:, 3:6].prod(1) + b[:, 3:6].prod(1) - shared),
        "AOE": np.abs(turn),
        "AVE": np.hypot(a[:, 7] - b[:, 7], a[:, 8] - b[:, 8]),
        "AAE": np.where(pairs.attributes < 0, np.nan, wrong),
    }


def mean_over_recall(errors: Array, scores: Array, confidence: Array, first: int) -> float:
    """The running mean of an error down the ranking, read where recall is first / 100, ..., and averaged.

    Args:
        errors, scores: (T,) of the right detections, best first.
        confidence: (101,) the score at which recall 0, .01, ... is reached, 0 where it is not.
    Returns: 1 where not even the first recall is reached.
    """
    reached = confidence.nonzero()[0]
    if len(reached) == 0 or reached[-1] < first:
        return 1.0
    running = _running_mean(errors)
    read = np.interp(confidence[::-1], scores[::-1], running[::-1])[::-1]
    return float(read[first : reached[-1] + 1].mean())


def _running_mean(values: Array) -> Array:
    """Means of the first 1, 2, ... numbers less NaN; 0 before the first number, 1 if there is none."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones(len(values))
    return np.where(known, values, 0.0).cumsum() / np.maximum(1, known.cumsum())
