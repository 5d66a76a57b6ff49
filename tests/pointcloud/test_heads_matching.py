"""The assignment of queries to labels, and where queries start, against trials of every possibility."""

import itertools
import math
import sys

import pytest
import torch

from linzoo.pointcloud.boxes import iou_3d_of_pairs
from linzoo.pointcloud.heads.matching import assign, match_cost
from linzoo.pointcloud.heads.proposals import best_cells

from .head_cases import GRID, some_boxes


def test_the_cost_is_focal_centre_and_overlap_with_the_published_weights():
    boxes, known = some_boxes(5, 1).double(), some_boxes(3, 1).double()
    known[:, :3] += 0.1
    logits, classes = 2 * torch.randn(5, 4, dtype=torch.float64), torch.tensor([3, 0, 2])
    cost = match_cost(boxes, logits, known, classes, GRID.point_range)
    for q, k in itertools.product(range(5), range(3)):
        p = 1 / (1 + math.exp(-logits[q, classes[k]].item()))
        focal = -0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p**2 * math.log(1 - p)
        apart = abs(boxes[q, 0] - known[k, 0]) / 16 + abs(boxes[q, 1] - known[k, 1]) / 8
        iou = iou_3d_of_pairs(boxes[q : q + 1], known[k : k + 1])
        assert cost[q, k].item() == pytest.approx((0.15 * focal + 0.25 * apart - 0.25 * iou).item(), abs=1e-9)


@pytest.mark.parametrize(("queries", "labels"), [(5, 3), (3, 3), (2, 4), (4, 0)])
def test_the_assignment_is_the_cheapest_of_all(queries, labels):
    cost = torch.randn(queries, labels, dtype=torch.float64)
    pairs = assign(cost)
    few = min(queries, labels)
    assert len(pairs.query.unique()) == len(pairs.label.unique()) == few == len(pairs.query)
    best = min(
        sum(cost[q, k].item() for q, k in zip(chosen, some, strict=True))
        for some in itertools.combinations(range(labels), few)
        for chosen in itertools.permutations(range(queries), few)
    )
    assert cost[pairs.query, pairs.label].sum().item() == pytest.approx(best)


def test_without_scipy_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r'pip install "linzoo\[pointcloud\]"'):
        assign(torch.zeros(2, 2))


def test_proposals_are_the_best_local_maxima_and_any_cell_of_a_crowded_class():
    heat = torch.rand(2, 3, 5, 6)
    start = best_cells(heat, 12, torch.tensor([False, True, False]))
    for sample in range(2):
        scores = {}
        for kind, row, column in itertools.product(range(3), range(5), range(6)):
            around = heat[sample, kind, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            if kind == 1 or heat[sample, kind, row, column] == around.max():
                scores[kind, row, column] = heat[sample, kind, row, column].item()
        best = sorted(scores, key=scores.get, reverse=True)[:12]
        places = torch.stack((start.classes[sample], start.row[sample], start.column[sample]), dim=1)
        assert [tuple(place) for place in places.tolist()] == best
        assert start.scores[sample].tolist() == [scores[place] for place in best]


def test_more_queries_than_cells_are_refused():
    with pytest.raises(ValueError, match="at most the number of cells of all classes, got 13 of 3"):
        best_cells(torch.rand(1, 3, 2, 2), 13, torch.tensor([False] * 3))
