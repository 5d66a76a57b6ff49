"""Corners, points inside boxes, and transforms that move points and boxes alike."""

import math

import pytest
import torch

from linzoo.kernels import ShapeError
from linzoo.pointcloud import boxes as B

from .box_cases import box, random_boxes


def test_corners_start_front_left_and_go_round_counter_clockwise():
    want = [[2.0, 1.0], [-2.0, 1.0], [-2.0, -1.0], [2.0, -1.0]]
    assert B.bev_corners(box())[0].tolist() == want
    got = B.box_corners(box(z=1.0, dz=2.0))[0]
    assert got[:4].tolist() == [[*corner, 0.0] for corner in want]
    assert got[4:].tolist() == [[*corner, 2.0] for corner in want]
    quarter = B.bev_corners(box(x=5.0, yaw=math.pi / 2))[0]
    torch.testing.assert_close(quarter[0], torch.tensor([4.0, 2.0], dtype=torch.float64))


def test_points_belong_to_the_first_box_that_holds_them():
    rows = torch.cat([box(), box(x=1.0), box(x=20.0, yaw=math.pi / 2)])
    points = [[0, 0, 0], [2.5, 0, 0], [-2, 1, 0.75], [0, 1.01, 0], [20, 1.9, 0], [21.9, 0, 0], [0, 0, 0.76]]
    points = torch.tensor(points, dtype=torch.float64)
    assert B.points_in_boxes(points, rows).tolist() == [0, 1, 0, -1, 2, -1, -1]
    assert B.points_per_box(points, rows).tolist() == [2, 2, 1]
    assert B.inside_boxes(points[:1], rows).tolist() == [[True, True, False]]


def test_chunks_do_not_change_which_points_are_inside(monkeypatch):
    points, rows = torch.randn(500, 5), random_boxes(6, 1, dtype=torch.float32)
    index, counts = B.points_in_boxes(points, rows), B.points_per_box(points, rows)
    assert len(index.unique()) > 3
    monkeypatch.setattr("linzoo.pointcloud.boxes.inside.ENTRIES", 60)
    assert torch.equal(B.points_in_boxes(points, rows), index)
    assert torch.equal(B.points_per_box(points, rows), counts)


def test_without_points_or_boxes_nothing_is_inside():
    assert B.points_in_boxes(torch.randn(4, 3), torch.zeros(0, 7)).tolist() == [-1] * 4
    assert B.points_in_boxes(torch.zeros(0, 3), torch.ones(2, 7)).tolist() == []
    assert B.points_per_box(torch.zeros(0, 3), torch.ones(2, 7)).tolist() == [0, 0]
    assert B.points_per_box(torch.randn(4, 3), torch.zeros(0, 7)).tolist() == []


MOVES = {
    "rotate": (lambda p: B.rotate_points(p, 2.5), lambda b: B.rotate_boxes(b, 2.5)),
    "mirror x": (lambda p: B.mirror_points(p, "x"), lambda b: B.mirror_boxes(b, "x")),
    "mirror y": (lambda p: B.mirror_points(p, "y"), lambda b: B.mirror_boxes(b, "y")),
    "scale": (lambda p: B.scale_points(p, 1.1), lambda b: B.scale_boxes(b, 1.1)),
    "shift": (lambda p: B.translate(p, (3.0, -2.0, 0.5)), lambda b: B.translate(b, (3.0, -2.0, 0.5))),
}


@pytest.mark.parametrize("move", MOVES)
def test_points_stay_in_their_boxes_and_boxes_keep_their_heading_and_velocity(move):
    move_points, move_boxes = MOVES[move]
    boxes = torch.cat((random_boxes(8, 2, spread=8), torch.randn(8, 2, dtype=torch.float64)), 1)
    points = torch.cat((torch.randn(3000, 3).double() * 3, torch.rand(3000, 2).double()), 1)
    before = points.clone(), boxes.clone()
    moved, moved_boxes = move_points(points), move_boxes(boxes)
    assert torch.equal(points, before[0]) and torch.equal(boxes, before[1]), "the arguments must not change"
    inside = B.points_in_boxes(points, boxes)
    assert (inside >= 0).sum() > 50
    assert torch.equal(B.points_in_boxes(moved, moved_boxes), inside)
    assert torch.equal(moved[:, 3:], points[:, 3:])
    # a point ahead of the centre along the heading, and one where the velocity leads, move like points
    heading = torch.stack((boxes[:, 6].cos(), boxes[:, 6].sin(), 0 * boxes[:, 6]), 1)
    ahead = move_points(boxes[:, :3] + heading) - moved_boxes[:, :3]
    yaw = torch.atan2(ahead[:, 1], ahead[:, 0])
    torch.testing.assert_close(B.wrap_angle(yaw - moved_boxes[:, 6]), torch.zeros(8).double())
    lead = torch.nn.functional.pad(boxes[:, 7:9], (0, 1))
    torch.testing.assert_close(
        (move_points(boxes[:, :3] + lead) - moved_boxes[:, :3])[:, :2], moved_boxes[:, 7:9]
    )


def test_angles_wrap_into_half_a_period_either_way():
    angles = torch.tensor([0.0, math.pi, -math.pi, 3.5, -7.0, 100.0, -1e-17], dtype=torch.float64)
    got = B.wrap_angle(angles)
    assert ((got >= -math.pi) & (got < math.pi)).all()
    torch.testing.assert_close(got.cos(), angles.cos())
    torch.testing.assert_close(got.sin(), angles.sin())
    half = B.wrap_angle(angles, math.pi)
    assert ((half >= -math.pi / 2) & (half < math.pi / 2)).all()
    torch.testing.assert_close((2 * half).cos(), (2 * angles).cos())


def test_bad_arguments_are_refused():
    with pytest.raises(ShapeError, match=r"points must be \(P, 3 or more\).*got \(4, 2\)"):
        B.points_in_boxes(torch.rand(4, 2), box())
    with pytest.raises(ShapeError, match=r"boxes must be \(N, 7 or more\).*got \(4, 3\)"):
        B.rotate_boxes(torch.rand(4, 3), 1.0)
    with pytest.raises(TypeError, match=r"boxes must be a tensor.*got list"):
        B.box_corners([1.0])
    with pytest.raises(ValueError, match=r"negate must be 'x' or 'y'.*got 'z'"):
        B.mirror_boxes(box(), "z")
    with pytest.raises(ValueError, match=r"factor must be > 0, got 0"):
        B.scale_points(torch.rand(4, 3), 0)
