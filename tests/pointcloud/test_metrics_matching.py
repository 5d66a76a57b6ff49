"""Who finds what, and the curves that follow."""

import numpy as np
import pytest

from linzoo.pointcloud.metrics.average_precision import ap_at_40, area_under, curve
from linzoo.pointcloud.metrics.matching import Tally, heading_difference, match


def taken(likeness, scores, ignored=None, above=0.5):
    likeness = np.array(likeness, dtype=np.float64)
    ignored = np.zeros(likeness.shape[1], dtype=bool) if ignored is None else np.array(ignored)
    return match(likeness, np.array(scores), ignored, above).tolist()


def test_the_surest_detection_chooses_first_and_the_first_of_equals():
    likeness = [[0.9, 0.6], [0.8, 0.7]]
    assert taken(likeness, [0.5, 0.9]) == [1, 0]
    assert taken(likeness, [0.9, 0.5]) == [0, 1]
    assert taken(likeness, [0.5, 0.5]) == [0, 1]


def test_an_object_is_taken_once_and_only_above_the_bound():
    assert taken([[0.9], [0.95]], [0.9, 0.5]) == [0, -1]
    assert taken([[0.5, 0.4]], [0.9]) == [-1]


def test_counted_objects_come_before_ignored_ones():
    assert taken([[0.9, 0.6]], [0.9], [True, False]) == [1]
    assert taken([[0.9, 0.4]], [0.9], [True, False]) == [0]
    assert taken([[-0.1, -0.6]], [0.9], [True, False], above=-1) == [1]


def test_nothing_is_taken_where_nothing_is():
    assert match(np.zeros((3, 0)), np.ones(3), np.zeros(0, dtype=bool), 0.5).tolist() == [-1] * 3
    assert match(np.zeros((0, 3)), np.ones(0), np.zeros(3, dtype=bool), 0.5).tolist() == []


def tally(scores, hits, total, weights=None):
    """``hits``: True right, False wrong, None ignored."""
    out = Tally()
    ignored = np.zeros(total + 1, dtype=bool)
    ignored[-1] = True
    right = iter(range(total))
    objects = np.array([total if hit is None else next(right) if hit else -1 for hit in hits], dtype=np.int64)
    grades = None if weights is None else np.repeat(np.array(weights)[:, None], total + 1, 1)
    out.add(np.array(scores, dtype=np.float64), objects, ignored, grades)
    return out


def test_the_curve_has_one_point_a_distinct_score():
    points = curve(tally([0.9, 0.5, 0.5, 0.2, 0.1], [True, False, True, None, False], 4))
    assert points.thresholds.tolist() == [0.9, 0.5, 0.1]
    assert points.hits.tolist() == [1, 2, 2]
    assert points.precision.tolist() == [1, 2 / 3, 2 / 4]


@pytest.mark.parametrize("total", [1, 3, 7, 40, 41, 130])
def test_recall_positions_are_counted_without_rounding(total):
    for hits in range(total + 1):
        got = ap_at_40(tally(np.linspace(1, 0.5, max(hits, 1))[:hits], [True] * hits, total))
        assert got == 100 * (hits * 40 // total) / 40


def test_area_is_the_integral_of_the_best_precision():
    points = tally([0.9, 0.8, 0.7, 0.6], [True, False, True, True], 4)
    assert area_under(points) == pytest.approx(100 * (1 + 3 / 4 + 3 / 4) / 4)


def test_weights_grade_precision_and_not_recall():
    graded = tally([0.9, 0.8], [True, True], 2, weights=[1.0, 0.5])
    assert area_under(graded, graded=True) == pytest.approx(100 * (1 + 0.75) / 2)
    assert ap_at_40(graded, graded=True) == pytest.approx(100 * (1 + 0.75) / 2)
    assert area_under(graded) == ap_at_40(graded) == 100


def test_heading_difference_is_the_short_way_round():
    got = heading_difference(np.array([0.1, 7.0, -3.0]), np.array([0.0, 3.1]))
    want = [[0.1, 3.0], [7 - 2 * np.pi, 3.9 - 0], [3.0, 2 * np.pi - 6.1]]
    want[1][1] = min(3.9, 2 * np.pi - 3.9)
    assert got == pytest.approx(np.array(want))
