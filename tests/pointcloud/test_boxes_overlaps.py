"""Overlaps of turned boxes: recorded figures, shapely, exact rational arithmetic, and what is refused."""

import math

import pytest
import torch

from linzoo.kernels import ShapeError
from linzoo.pointcloud.boxes import (
    bev_corners,
    iou_3d_of_pairs,
    iou_bev_of_pairs,
    overlaps_3d,
    overlaps_bev,
    overlaps_bev_and_3d,
)
from linzoo.pointcloud.boxes.intersections import bev_intersections

from ..parity_fill import figures
from .box_cases import box, degenerate_pairs, exact_areas, random_boxes

EXACT = {"rtol": 0, "atol": 1e-12}


def shapely_areas(a, b):
    shapely = pytest.importorskip("shapely")
    polygons = [shapely.polygons(bev_corners(boxes).numpy()) for boxes in (a, b)]
    return torch.from_numpy(shapely.area(shapely.intersection(*polygons)))


def test_recorded_overlaps_are_reproduced():
    recorded = figures("pointcloud_heads")["rotated"]
    a, b = (torch.tensor(recorded[name], dtype=torch.float64) for name in ("boxes_a", "boxes_b"))
    for name, got in (
        ("bev_intersection", bev_intersections(a, b)),
        ("bev_iou", iou_bev_of_pairs(a, b)),
        ("iou3d", iou_3d_of_pairs(a, b)),
    ):
        torch.testing.assert_close(got, torch.tensor(recorded[name], dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("far", [0.0, 70.0], ids="{:g} m away".format)
def test_random_boxes_share_the_area_that_shapely_finds(far):
    a, b = random_boxes(4000, 1), random_boxes(4000, 2)
    a[:, :2], b[:, :2] = a[:, :2] + far, b[:, :2] + far
    want = shapely_areas(a, b)
    assert 0.5 < (want > 0).double().mean() < 0.95, "the cases must hold both pairs that meet and pairs apart"
    torch.testing.assert_close(bev_intersections(a, b), want, **EXACT)


def test_equal_touching_and_nearly_aligned_boxes_share_the_exact_area():
    # Compared with rational arithmetic: GEOS itself is off by 1e-12 to 8 m^2 in some of these.
    a, b = degenerate_pairs()
    keep = torch.randperm(len(a), generator=torch.Generator().manual_seed(0))[:1200]
    torch.testing.assert_close(bev_intersections(a[keep], b[keep]), exact_areas(a[keep], b[keep]), **EXACT)


@pytest.mark.parametrize("turn", [1e-16, 1e-15, 3e-15, 1e-14, 1e-13, 1e-9])
@pytest.mark.parametrize("shift", [0.0, 1e-16, 1e-15, 1e-14, 1e-13])
def test_a_turn_or_shift_of_rounding_size_loses_no_corner(turn, shift):
    for yaw in (0.0, 0.3, math.pi / 2):
        for dy in (2.0, 1.0):
            other = box(x=shift, y=-shift, dy=dy, yaw=yaw + turn)
            shared = bev_intersections(box(yaw=yaw), other).item()
            assert shared == pytest.approx(4 * dy, abs=8 * (turn + 2 * shift) + 1e-13)


@pytest.mark.parametrize(
    ("other", "area"),
    [
        (box(), 8.0),
        (box(yaw=math.pi), 8.0),
        (box(yaw=200 * math.pi), 8.0),
        (box(yaw=math.pi / 2), 4.0),
        (box(dx=1.0, dy=1.0, yaw=0.4), 1.0),
        (box(dx=9.0, dy=9.0, yaw=0.4), 8.0),
        (box(x=2.0), 4.0),
        (box(x=1.0, dx=2.0), 4.0),
        (box(x=4.0), 0.0),
        (box(x=4.0, y=2.0), 0.0),
        (box(x=2.0 + math.sqrt(2), dx=2.0, dy=2.0, yaw=math.pi / 4), 0.0),
        (box(x=50.0), 0.0),
    ],
    ids=[
        *(
            "equal",
            "half turn",
            "many turns",
            "quarter turn",
            "inside",
            "around",
            "half over",
            "shared edges",
        ),
        *("touching side", "touching corner", "corner on side", "apart"),
    ],
)
def test_areas_known_by_hand(other, area):
    torch.testing.assert_close(bev_intersections(box(), other).item(), area, **EXACT)
    torch.testing.assert_close(bev_intersections(other, box()).item(), area, **EXACT)


def test_overlap_in_3d_counts_the_shared_height():
    assert iou_3d_of_pairs(box(), box(z=0.75)).item() == pytest.approx(1 / 3)
    assert iou_3d_of_pairs(box(), box(z=1.5)).item() == 0
    assert iou_bev_of_pairs(box(), box(z=50.0)).item() == 1


def test_every_pair_equals_the_pairs_one_by_one(monkeypatch):
    a, b = random_boxes(37, 3, spread=12), random_boxes(23, 4, spread=12)
    rows, columns = torch.meshgrid(torch.arange(37), torch.arange(23), indexing="ij")
    beside = (a[rows.flatten()], b[columns.flatten()])
    bev, full = overlaps_bev_and_3d(a, b)
    assert torch.equal(bev, iou_bev_of_pairs(*beside).view(37, 23))
    assert torch.equal(full, iou_3d_of_pairs(*beside).view(37, 23))
    assert torch.equal(bev, overlaps_bev(a, b)) and torch.equal(full, overlaps_3d(a, b))
    monkeypatch.setattr("linzoo.pointcloud.boxes.overlaps.ENTRIES", 50)
    monkeypatch.setattr("linzoo.pointcloud.boxes.overlaps.PAIRS", 7)
    assert torch.equal(overlaps_3d(a, b), full), "chunks must not change the result"


def test_overlaps_do_not_change_when_both_boxes_turn_and_move():
    a, b = random_boxes(300, 5), random_boxes(300, 6)
    want = iou_3d_of_pairs(a, b)
    for boxes in (a, b):
        x, y = boxes[:, 0].clone(), boxes[:, 1].clone()
        boxes[:, 0], boxes[:, 1] = 30 + x * math.cos(2) - y * math.sin(2), x * math.sin(2) + y * math.cos(2)
        boxes[:, 6] += 2
    torch.testing.assert_close(iou_3d_of_pairs(a, b), want, rtol=0, atol=1e-12)


def test_float32_boxes_give_float32_overlaps_computed_in_float64():
    a, b = random_boxes(50, 7, dtype=torch.float32), random_boxes(50, 8, dtype=torch.float32)
    got = overlaps_3d(a, b)
    assert got.dtype == torch.float32
    assert torch.equal(got, overlaps_3d(a.double(), b.double()).float())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_overlaps_and_the_same_gradient_bits_twice():
    a, b = random_boxes(300, 9), random_boxes(300, 10)
    torch.testing.assert_close(overlaps_3d(a.cuda(), b.cuda()).cpu(), overlaps_3d(a, b), **EXACT)
    gradients = []
    for _ in range(2):
        x, y = a.cuda().requires_grad_(), b.cuda().requires_grad_()
        gradients.append(torch.cat(torch.autograd.grad(iou_3d_of_pairs(x, y).sum(), (x, y))))
    assert torch.equal(*gradients)


def test_no_boxes_give_no_overlaps():
    assert overlaps_3d(box()[:0], random_boxes(3, 0)).shape == (0, 3)
    assert overlaps_bev(random_boxes(3, 0), box()[:0]).shape == (3, 0)
    assert iou_3d_of_pairs(box()[:0], box()[:0]).shape == (0,)


@pytest.mark.parametrize("column", [3, 4, 5])
@pytest.mark.parametrize("size", [0.0, -1.0, math.nan, math.inf])
def test_boxes_without_extent_are_refused(column, size):
    bad = random_boxes(3, 0)
    bad[1, column] = size
    for function in (overlaps_bev, overlaps_3d, iou_bev_of_pairs, iou_3d_of_pairs):
        with pytest.raises(ValueError, match=r"b must be finite with dx, dy, dz > 0, got row 1"):
            function(random_boxes(3, 1), bad)


def test_rows_that_are_no_boxes_are_refused():
    with pytest.raises(ShapeError, match=r"a must be \(N, 7 or more\).*got \(3, 6\)"):
        overlaps_bev(torch.rand(3, 6), random_boxes(3, 0))
    with pytest.raises(TypeError, match=r"b must be floating point, got torch.int64"):
        overlaps_bev(random_boxes(3, 0), torch.ones(3, 7, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"b must have a row for each of the 3 of a, got 2"):
        iou_3d_of_pairs(random_boxes(3, 0), random_boxes(2, 0))
