"""Frames changed by chance, and objects pasted into them."""

import math

import numpy as np
import pytest
import torch

from linzoo.kernels.errors import ShapeError
from linzoo.pointcloud.boxes import inside_boxes, overlaps_bev, points_per_box
from linzoo.pointcloud.data.augment import AugmentOptions, augment
from linzoo.pointcloud.data.paste import PasteDatabase, file_min_points, paste_objects
from linzoo.pointcloud.records import Frame, Labels

from .lidar_folders import nothing_in, scenes

NAMES = ("Car", "Pedestrian", "Cyclist")
ALL = AugmentOptions(
    flip_x=True, flip_y=True, rotation=0.8, scale=(0.9, 1.1), translation=0.5, paste={"Car": 9, "Cyclist": 6}
)


class Frames(list):
    """A data set of given frames."""

    classes, point_features = NAMES, 4


def made_frame(points, boxes, classes=None, **info) -> Frame:
    boxes = (
        torch.tensor(boxes, dtype=torch.float32).reshape(len(boxes), -1) if len(boxes) else torch.zeros(0, 7)
    )
    classes = torch.zeros(len(boxes), dtype=torch.int64) if classes is None else torch.tensor(classes)
    return Frame(
        points=torch.as_tensor(points, dtype=torch.float32),
        labels=Labels(boxes, classes),
        name="a",
        info=info,
    )


def chance(seed=0):
    return np.random.default_rng(seed)


def sure(value=0.0, normal=0.0, **options):
    """The frame changed with known draws: every flip, even draws ``value``, normal ones ``normal``."""

    class Known:
        def random(self, n):
            return np.full(n, value)

        def standard_normal(self, n):
            return np.full(n, normal)

        def permutation(self, n):
            return np.arange(n)

    return lambda frame: augment(frame, AugmentOptions(**options), Known(), None)


ONE = made_frame([[3.0, 1.0, 0.5, 0.7]], [[4.0, 2.0, 0.0, 4, 2, 1.5, 0.3, 5.0, 1.0]])


def test_a_flip_at_the_x_axis_changes_the_sign_of_y_of_yaw_and_of_the_velocity():
    turned = sure(flip_x=True)(ONE)
    torch.testing.assert_close(turned.points, torch.tensor([[3.0, -1.0, 0.5, 0.7]]))
    torch.testing.assert_close(turned.labels.boxes, torch.tensor([[4.0, -2, 0, 4, 2, 1.5, -0.3, 5, -1]]))


def test_a_flip_at_the_y_axis_changes_the_sign_of_x_and_turns_the_heading_over():
    turned = sure(flip_y=True)(ONE)
    torch.testing.assert_close(turned.points, torch.tensor([[-3.0, 1.0, 0.5, 0.7]]))
    yaw = 0.3 - math.pi + 2 * (math.pi / 2 - 0.3) + math.pi  # pi - .3
    torch.testing.assert_close(turned.labels.boxes, torch.tensor([[-4.0, 2, 0, 4, 2, 1.5, yaw, -5, 1]]))


def test_a_rotation_turns_places_headings_and_velocities_alike():
    turned = sure(value=1.0, rotation=math.pi / 2)(ONE)  # value 1: no flip, the largest turn
    torch.testing.assert_close(turned.points, torch.tensor([[-1.0, 3.0, 0.5, 0.7]]))
    boxes = torch.tensor([[-2.0, 4, 0, 4, 2, 1.5, 0.3 + math.pi / 2, -1, 5]])
    torch.testing.assert_close(turned.labels.boxes, boxes)


def test_a_scale_changes_lengths_and_velocities_and_no_angle_or_intensity():
    scaled = sure(value=1.0, scale=(0.5, 2.0))(ONE)
    torch.testing.assert_close(scaled.points, torch.tensor([[6.0, 2.0, 1.0, 0.7]]))
    torch.testing.assert_close(scaled.labels.boxes, torch.tensor([[8.0, 4, 0, 8, 4, 3, 0.3, 10, 2]]))
    assert torch.equal(sure(value=0.0, scale=(0.5, 2.0))(ONE).points[:, :3], ONE.points[:, :3] * 0.5)


def test_a_move_shifts_places_alone():
    moved = sure(normal=2.0, translation=0.5)(ONE)
    torch.testing.assert_close(moved.points, torch.tensor([[4.0, 2.0, 1.5, 0.7]]))
    torch.testing.assert_close(moved.labels.boxes[0, :3], torch.tensor([5.0, 3.0, 1.0]))
    torch.testing.assert_close(moved.labels.boxes[0, 3:], ONE.labels.boxes[0, 3:])


@pytest.mark.parametrize("seed", range(6))
def test_every_labelled_point_stays_in_its_box(seed):
    frame = scenes(1)[0]
    shrunk = frame.labels.boxes.clone()
    shrunk[:, 3:6] *= 0.999  # points on a surface may end on either side of it
    held = inside_boxes(frame.points, shrunk).any(0).sum(), points_per_box(frame.points, shrunk)
    options = AugmentOptions(flip_x=True, flip_y=True, rotation=3.0, scale=(0.8, 1.2), translation=2.0)
    changed = augment(frame, options, chance(seed), None)
    assert held[0] == len(frame.labels.boxes)
    assert (points_per_box(changed.points, changed.labels.boxes) >= held[1]).all()
    assert torch.equal(changed.labels.classes, frame.labels.classes)
    assert (changed.labels.boxes[:, 6].abs() <= math.pi + 1e-6).all()


@pytest.mark.parametrize("seed", range(3))
def test_without_scale_all_distances_are_kept(seed):
    frame = made_frame(chance(9).normal(size=(30, 4)) * 10, [])
    options = AugmentOptions(flip_x=True, flip_y=True, rotation=3.0, translation=2.0)
    changed = augment(frame, options, chance(seed), None)
    order = changed.points[:, 3].argsort()
    there = frame.points[frame.points[:, 3].argsort()]
    torch.testing.assert_close(
        torch.pdist(changed.points[order, :3]), torch.pdist(there[:, :3]), atol=1e-4, rtol=0
    )


def test_the_same_chance_gives_the_same_frame_and_the_input_is_left_as_it_was():
    frames = Frames(scenes(4))
    database = PasteDatabase.of(frames)
    points, boxes = frames[0].points.clone(), frames[0].labels.boxes.clone()
    one, same, other = (augment(frames[0], ALL, chance(seed), database) for seed in (5, 5, 6))
    assert torch.equal(one.points, same.points) and torch.equal(one.labels.boxes, same.labels.boxes)
    assert one.points.shape != other.points.shape or not torch.equal(one.points, other.points)
    assert torch.equal(frames[0].points, points) and torch.equal(frames[0].labels.boxes, boxes)
    assert dict(one.info) == {} and one.name == frames[0].name


def test_points_are_shuffled_and_nothing_else_when_nothing_is_asked():
    frame = scenes(1)[0]
    changed = augment(frame, AugmentOptions(), chance(), None)
    assert not torch.equal(changed.points, frame.points)
    assert sorted(changed.points.tolist()) == sorted(frame.points.tolist())
    torch.testing.assert_close(changed.labels.boxes, frame.labels.boxes)


@pytest.mark.parametrize("points", [0, 50], ids="N{}".format)
def test_frames_without_boxes_or_points_go_through(points):
    database = PasteDatabase.of(Frames(scenes(2)))
    frame = made_frame(torch.rand(points, 4), [])
    changed = augment(frame, AugmentOptions(flip_x=True, rotation=1.0, translation=1.0), chance(), database)
    assert changed.points.shape == (points, 4) and changed.labels.boxes.shape == (0, 7)
    filled = augment(frame, ALL, chance(), database)
    assert len(filled.labels.boxes) > 2 and len(filled.points) > 20


def test_half_of_the_frames_are_flipped_and_draws_fill_their_ranges():
    options = AugmentOptions(flip_x=True, scale=(0.5, 2.0))
    frame = made_frame([[1.0, 1.0, 1.0, 0.0]], [])
    ends = torch.stack([augment(frame, options, chance(seed), None).points[0] for seed in range(300)])
    assert 110 < (ends[:, 1] < 0).sum() < 190
    assert 0.5 <= ends[:, 0].min() < 0.55 and 1.9 < ends[:, 0].max() <= 2.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"rotation": -1}, "rotation must be at least 0 radians, got -1"),
        ({"rotation": math.nan}, "rotation must be at least 0 radians, got nan"),
        ({"scale": (1.1, 0.9)}, r"scale must be \(lowest, highest\) factor above 0"),
        ({"translation": -0.1}, "translation must be at least 0 metres"),
        ({"paste": {"Car": 1.5}}, "paste must give each class a whole number"),
    ],
)
def test_options_without_meaning_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        AugmentOptions(**words)


# pasting --------------------------------------------------------------------------------------------------


def test_the_database_holds_every_object_with_enough_points_where_it_stood():
    frames = Frames(scenes(3))
    database = PasteDatabase.of(frames, min_points=20)
    counts = torch.cat([points_per_box(frame.points, frame.labels.boxes) for frame in frames])
    boxes = torch.cat([frame.labels.boxes for frame in frames])
    assert 0 < len(database) < len(boxes)
    assert torch.equal(database.boxes, boxes[counts >= 20])
    assert torch.equal(database.offsets.diff(), counts[counts >= 20])
    for index in range(len(database)):
        assert inside_boxes(database.object_points(index), database.boxes[index : index + 1]).all()


@pytest.mark.parametrize("seed", range(8))
def test_pasted_objects_touch_nothing_and_stand_alone_in_their_boxes(seed):
    frames = Frames(scenes(6))
    database, frame = PasteDatabase.of(frames), frames[0]
    points, labels = paste_objects(frame, database, {"Car": 12, "Pedestrian": 8, "Cyclist": 8}, chance(seed))
    old, new = len(frame.labels.boxes), labels.boxes[len(frame.labels.boxes) :]
    assert len(new) > 3 and torch.equal(labels.boxes[:old], frame.labels.boxes)
    overlaps = overlaps_bev(labels.boxes, labels.boxes)
    assert (overlaps[old:].fill_diagonal_(0) if old == 0 else overlaps[old:, :old]).max() == 0
    assert (overlaps[old:, old:] - torch.eye(len(new))).abs().max() < 1e-5
    held = points_per_box(points, new)
    for box, class_, count in zip(new, labels.classes[old:], held, strict=True):
        source = (database.boxes == box).all(1).nonzero()[0, 0]
        assert database.classes[source] == class_
        assert count == len(database.object_points(int(source)))


def test_a_frame_is_filled_up_to_the_count_and_no_further():
    frames = Frames(scenes(6))
    database, frame = PasteDatabase.of(frames), frames[0]
    present = int((frame.labels.classes == 0).sum())
    points, labels = paste_objects(frame, database, {"Car": present}, chance())
    assert points is frame.points and labels is frame.labels
    for seed in range(5):
        _, labels = paste_objects(frame, database, {"Car": present + 1}, chance(seed))
        assert int((labels.classes == 0).sum()) <= present + 1


def test_boxes_that_a_metric_ignores_are_in_the_way_too():
    database = PasteDatabase.of(Frames(scenes(3)))
    plain = made_frame(torch.rand(20, 4), [])
    wall = torch.tensor([[10.0, 0, 0, 200, 200, 4, 0]])
    blocked = made_frame(torch.rand(20, 4), [], ignored_boxes=wall)
    assert len(paste_objects(plain, database, {"Car": 5}, chance())[1].boxes) > 0
    assert len(paste_objects(blocked, database, {"Car": 5}, chance())[1].boxes) == 0
    flat = made_frame(torch.rand(20, 4), [], ignored_boxes=torch.tensor([[-1000.0, 0, 0, 0, 0, 0, 0]]))
    assert len(paste_objects(flat, database, {"Car": 5}, chance())[1].boxes) > 0


def test_an_empty_database_pastes_nothing():
    database = PasteDatabase.of(Frames([nothing_in(frame) for frame in scenes(2)]))
    frame = scenes(1)[0]
    assert len(database) == 0
    assert paste_objects(frame, database, {"Car": 50}, chance())[0] is frame.points


def test_a_stored_database_is_the_same_and_is_used_for_at_least_as_many_points(tmp_path):
    frames = Frames(scenes(3))
    frames.paste_file = tmp_path / "a.safetensors"
    frames.paste_file.write_bytes(PasteDatabase.of(Frames(frames), min_points=5).to_bytes(5))
    assert file_min_points(frames.paste_file) == 5
    from_file, gathered = (
        PasteDatabase.of(frames, min_points=20),
        PasteDatabase.of(Frames(frames), min_points=20),
    )
    for name in ("points", "offsets", "boxes", "classes"):
        assert torch.equal(getattr(from_file, name), getattr(gathered, name))
    assert len(PasteDatabase.of(frames, min_points=1)) == len(PasteDatabase.of(Frames(frames), min_points=1))


@pytest.mark.parametrize("cut", [0, 4, 100, -7])
def test_a_damaged_database_is_named(tmp_path, cut):
    content = PasteDatabase.of(Frames(scenes(1))).to_bytes(5)
    (tmp_path / "a.safetensors").write_bytes(content[:cut])
    with pytest.raises(ValueError, match=r"a\.safetensors: is cut short or no safetensors file"):
        PasteDatabase.load(tmp_path / "a.safetensors")


def test_what_does_not_fit_is_refused():
    database, frame = PasteDatabase.of(Frames(scenes(1))), scenes(1)[0]
    with pytest.raises(ValueError, match="paste must name classes of Car, Pedestrian, Cyclist, got Tram"):
        paste_objects(frame, database, {"Tram": 3}, chance())
    wide = made_frame(torch.rand(20, 5), [])
    with pytest.raises(ShapeError, match="a frame has 5 values a point and 7 a box, the database 4 and 7"):
        paste_objects(wide, database, {"Car": 3}, chance())
    with pytest.raises(ShapeError, match="offsets and classes must fit"):
        PasteDatabase(
            class_names=NAMES, points=torch.zeros(3, 4), offsets=torch.tensor([0]), boxes=torch.zeros(1, 7),
            classes=torch.zeros(1, dtype=torch.int64),
        )  # fmt: skip
