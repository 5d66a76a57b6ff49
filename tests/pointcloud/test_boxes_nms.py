"""Suppression: the greedy definition, ties, limits, classes, and what is refused."""

import time

import pytest
import torch

from linzoo.kernels import ShapeError
from linzoo.pointcloud.boxes import nms_bev, nms_by_class, overlaps_bev

from .box_cases import box, random_boxes


def by_definition(boxes, scores, threshold):
    """One box after another, best first; of equal scores the first."""
    overlaps = overlaps_bev(boxes, boxes)
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i].item(), i))
    kept = []
    for i in order:
        if all(overlaps[i, j] <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("block", [16, 128])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 1.0])
def test_suppression_is_the_greedy_one(threshold, block, monkeypatch):
    monkeypatch.setattr("linzoo.pointcloud.boxes.nms.BLOCK", block)
    boxes = random_boxes(150, 1, spread=8)
    scores = torch.rand(150, generator=torch.Generator().manual_seed(2)).mul(20).round()  # with ties
    want = by_definition(boxes, scores, threshold)
    assert threshold == 1.0 or len(want) < 140
    assert nms_bev(boxes, scores, threshold).tolist() == want
    assert nms_bev(boxes, scores, threshold, post=5).tolist() == want[:5]


def test_a_suppressed_box_suppresses_nothing():
    row = torch.cat([box(x=x) for x in (0.0, 1.5, 3.0)])  # neighbours overlap by 2.5 / 5.5, the ends less
    assert nms_bev(row, torch.tensor([0.9, 0.8, 0.7]), 0.4).tolist() == [0, 2]
    assert nms_bev(row, torch.tensor([0.8, 0.9, 0.7]), 0.4).tolist() == [1]


def test_of_equal_scores_the_first_box_wins():
    same = box().repeat(5, 1)
    assert nms_bev(same, torch.full((5,), 0.5), 0.5).tolist() == [0]
    apart = torch.cat([box(x=10.0 * i) for i in range(5)])
    assert nms_bev(apart, torch.full((5,), 0.5), 0.5).tolist() == [0, 1, 2, 3, 4]


def test_only_the_best_before_and_after_are_looked_at():
    row = torch.cat([box(x=10.0 * i) for i in range(6)])
    scores = torch.tensor([0.1, 0.6, 0.5, 0.4, 0.3, 0.2])
    assert nms_bev(row, scores, 0.5, pre=4).tolist() == [1, 2, 3, 4]
    assert nms_bev(row, scores, 0.5, pre=4, post=2).tolist() == [1, 2]


def test_classes_do_not_suppress_each_other_and_have_their_own_thresholds():
    row = torch.cat([box(), box(x=0.5), box(), box(x=0.5), box(), box(x=0.5)])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    classes = torch.tensor([0, 0, 1, 1, 2, 2])
    assert nms_by_class(row, scores, classes, 0.5).tolist() == [0, 2, 4]
    assert nms_by_class(row, scores, classes, [0.5, 0.9, None]).tolist() == [0, 2, 3, 4, 5]
    assert nms_by_class(row, scores, classes, [0.5, 0.9, None], post=1).tolist() == [0, 2, 4]
    assert nms_by_class(row, scores, classes.flip(0), 0.5).tolist() == [0, 2, 4]


def test_no_boxes_are_kept_of_none():
    none = box()[:0]
    assert nms_bev(none, torch.zeros(0), 0.5).tolist() == []
    assert nms_by_class(none, torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5).tolist() == []


@pytest.mark.parametrize("spread", [4.0, 60.0, 200.0], ids="{:g} m".format)
def test_four_thousand_boxes_take_seconds_at_most(spread):
    boxes = random_boxes(4096, 3, spread=spread, dtype=torch.float32)
    start = time.process_time()
    nms_bev(boxes, torch.rand(4096), 0.2, post=500)
    assert time.process_time() - start < 5


def test_bad_arguments_are_refused():
    boxes, scores = random_boxes(3, 0), torch.rand(3)
    with pytest.raises(ValueError, match=r"threshold must lie in 0\.\.1 .*got 1\.5"):
        nms_bev(boxes, scores, 1.5)
    with pytest.raises(ShapeError, match=r"scores must be one number a box, \(3,\), got \(2,\)"):
        nms_bev(boxes, scores[:2], 0.5)
    with pytest.raises(ValueError, match=r"scores must be numbers, got NaN in row 1"):
        nms_bev(boxes, torch.tensor([0.1, torch.nan, 0.2]), 0.5)
    with pytest.raises(ValueError, match=r"pre must be >= 1 or None, got 0"):
        nms_bev(boxes, scores, 0.5, pre=0)
    with pytest.raises(ValueError, match=r"one entry a class, got 1 and a box of class 2"):
        nms_by_class(boxes, scores, torch.tensor([0, 0, 2]), [0.5])
    with pytest.raises(ShapeError, match=r"classes must be \(3,\) int64, got \(3,\) torch.int32"):
        nms_by_class(boxes, scores, torch.zeros(3, dtype=torch.int32), 0.5)
    with pytest.raises(ValueError, match=r"boxes must be finite with dx, dy, dz > 0"):
        nms_bev(boxes * 0, scores, 0.5)
