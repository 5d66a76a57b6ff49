"""Overlap losses: recorded figures, finite differences of shapely's area, and gradients that stay finite."""

import math

import pytest
import torch

from linzoo.kernels import ShapeError
from linzoo.pointcloud.box_losses import (
    axis_aligned_diou,
    axis_aligned_diou_loss,
    rotated_diou,
    rotated_iou_loss,
)
from linzoo.pointcloud.boxes import bev_corners, iou_3d_of_pairs

from ..parity_fill import figures
from .box_cases import box, random_boxes

APART = {"far": box(x=60.0), "above": box(z=9.0), "touching": box(x=4.0), "corner": box(x=4.0, y=2.0)}
ALIGNED = {"equal": box(), "half turn": box(yaw=math.pi), "inside": box(dx=1.0, dy=1.0, dz=1.0)}
NEARLY = {f"turned {angle:g}": box(yaw=angle) for angle in (1e-16, 1e-15, 1e-14, 1e-12, 1e-8)}


def gradients(loss, a, b):
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    return torch.autograd.grad(loss(a, b), (a, b))


def test_recorded_axis_aligned_diou_is_reproduced():
    recorded = figures("pointcloud_heads")["rotated"]
    a, b, want = (
        torch.tensor(recorded[name], dtype=torch.float64)
        for name in ("boxes_a", "boxes_b", "diou_axis_aligned")
    )
    torch.testing.assert_close(axis_aligned_diou(a, b), want, rtol=0, atol=1e-12)
    torch.testing.assert_close(axis_aligned_diou_loss(a, b), (1 - want).mean(), rtol=0, atol=1e-12)


def test_axis_aligned_diou_ignores_yaw_and_rotated_diou_does_not():
    a, b = box(), box(x=1.0, y=0.3, yaw=0.7)
    assert axis_aligned_diou(a, b) == axis_aligned_diou(a, box(x=1.0, y=0.3))
    assert rotated_diou(a, b) != rotated_diou(a, box(x=1.0, y=0.3))


def test_diou_of_two_boxes_by_hand():
    # half over along x: IoU 1/3; centres 2 m apart; both lie in a box of 6 x 2 x 1.5 m
    want = 1 / 3 - 4 / (36 + 4 + 2.25)
    assert axis_aligned_diou(box(), box(x=2.0)).item() == pytest.approx(want)
    assert rotated_diou(box(), box(x=2.0)).item() == pytest.approx(want)
    turned = rotated_diou(box(yaw=math.pi / 2), box(y=2.0, yaw=math.pi / 2))
    assert turned.item() == pytest.approx(want)


def test_boxes_apart_along_two_axes_share_nothing():
    # 6 m of air along x and 1 along y: the box around both is 14 x 5 x 1.5 m
    want = -(10**2 + 3**2) / (14**2 + 5**2 + 1.5**2)
    assert axis_aligned_diou(box(), box(x=10.0, y=3.0)).item() == pytest.approx(want)
    assert rotated_diou(box(), box(x=10.0, y=3.0)).item() == pytest.approx(want)


def shapely_iou(a, b):
    """IoU in 3D row by row, with the shared area of shapely."""
    shapely = pytest.importorskip("shapely")
    polygons = [shapely.polygons(bev_corners(boxes).numpy()) for boxes in (a, b)]
    area = torch.from_numpy(shapely.area(shapely.intersection(*polygons)))
    tops = torch.minimum(a[:, 2] + a[:, 5] / 2, b[:, 2] + b[:, 5] / 2)
    shared = area * (tops - torch.maximum(a[:, 2] - a[:, 5] / 2, b[:, 2] - b[:, 5] / 2)).clamp(min=0)
    return shared / (a[:, 3:6].prod(1) + b[:, 3:6].prod(1) - shared)


def test_gradients_equal_finite_differences_of_shapelys_area():
    a, b, step = random_boxes(60, 1, spread=2.5), random_boxes(60, 2, spread=2.5), 1e-6
    assert (iou_3d_of_pairs(a, b) > 0).double().mean() > 0.7
    got = gradients(lambda a, b: iou_3d_of_pairs(a, b).sum(), a, b)
    for which, gradient in enumerate(got):
        for column in range(7):
            move = torch.zeros(7, dtype=torch.float64)
            move[column] = step
            up, down = ([a, b], [a, b])
            up[which], down[which] = up[which] + move, down[which] - move
            numeric = (shapely_iou(*up) - shapely_iou(*down)) / (2 * step)
            torch.testing.assert_close(gradient[:, column], numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("distance", [False, True], ids=["iou", "diou"])
@pytest.mark.parametrize("case", APART | ALIGNED | NEARLY)
def test_gradients_are_finite_for_boxes_apart_and_boxes_alike(case, distance):
    other = (APART | ALIGNED | NEARLY)[case]
    for a, b in ((box(), other), (other, box())):
        for gradient in gradients(lambda a, b: rotated_iou_loss(a, b, distance=distance), a, b):
            assert gradient.isfinite().all() and gradient.abs().max() < 10
    for gradient in gradients(axis_aligned_diou_loss, box(), other):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("case", APART)
def test_only_the_centre_term_draws_boxes_together_that_do_not_overlap(case):
    apart = APART[case]
    towards = -apart[0, :3] / apart[0, :3].norm()
    plain = gradients(rotated_iou_loss, apart, box())[0][0, :3]
    drawn = gradients(lambda a, b: rotated_iou_loss(a, b, distance=True), apart, box())[0][0, :3]
    assert case in ("touching", "corner") or plain.abs().max() == 0
    assert (drawn @ towards).item() < -1e-3, "a step down the gradient must go towards the target"


def test_descent_on_the_loss_finds_the_target_with_its_yaw():
    torch.manual_seed(0)
    target = torch.cat([box(yaw=0.4), box(x=5.0, yaw=-1.0), box(y=7.0, dx=0.8, dy=0.6, dz=1.7, yaw=2.0)])
    found = (target + 0.25 * torch.randn(3, 7).double()).requires_grad_()
    with torch.no_grad():
        found[:, 3:6] = found[:, 3:6].clamp(min=0.4)
    optimizer = torch.optim.Adam([found], lr=0.02)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 200)
        optimizer.zero_grad()
        rotated_iou_loss(found, target, distance=True).backward()
        optimizer.step()
    assert iou_3d_of_pairs(found, target).min() > 0.95


def test_no_rows_give_a_zero_that_can_be_differentiated():
    none = torch.zeros(0, 7, requires_grad=True)
    for loss in (axis_aligned_diou_loss, rotated_iou_loss):
        value = loss(none, torch.zeros(0, 7))
        value.backward()
        assert value == 0 and none.grad.shape == (0, 7)


def test_losses_keep_float32_and_lists_of_different_length_are_refused():
    a, b = random_boxes(5, 1, dtype=torch.float32), random_boxes(5, 2, dtype=torch.float32)
    assert rotated_iou_loss(a, b).dtype == axis_aligned_diou_loss(a, b).dtype == torch.float32
    for loss in (axis_aligned_diou_loss, rotated_iou_loss):
        with pytest.raises(ShapeError, match=r"second list must have a row for each of the 5, got 4"):
            loss(a, b[:4])
    with pytest.raises(ValueError, match=r"dx, dy, dz > 0"):
        rotated_iou_loss(a, b * 0)
