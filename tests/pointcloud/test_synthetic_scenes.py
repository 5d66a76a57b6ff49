"""Scenes that are drawn: rays, what they meet, and what is labelled."""

import numpy as np
import pytest
import torch

from linzoo.pointcloud.data.raycast import GROUND, Sensor, Solids, cast
from linzoo.pointcloud.data.shapes import CLASSES, ROAD_USERS, solid_pieces
from linzoo.pointcloud.data.synthetic import SceneOptions, SyntheticScenes

SMALL = Sensor(beams=16, azimuths=90, sector=360, lowest=-20, highest=5, noise=0, dropout=0)


def one_solid(x=8.0, y=0.0, z=-0.93, size=(4.0, 1.8, 1.6), yaw=0.0, owner=0):
    half = np.asarray(size) / 2
    return (-half, half, np.array([x, y, z]), yaw, owner, 0.5)


def solids(*rows):
    low, high, centre, yaw, owner, shine = (np.array(column) for column in zip(*rows, strict=True))
    return Solids(low=low, high=high, centre=centre, yaw=yaw, owner=owner, reflectivity=shine)


def march(sensor, things):
    """The same by walking along every ray in steps of 5 mm: (owner, distance), beams times azimuths."""
    found = []
    for direction in sensor.directions().reshape(-1, 3):
        steps = np.arange(0.005, 16, 0.005)
        places = steps[:, None] * direction
        owners = np.where(places[:, 2] <= -sensor.height, GROUND, -2)
        for p in range(len(things.owner)):
            moved = places - things.centre[p]
            c, s = np.cos(things.yaw[p]), np.sin(things.yaw[p])
            own = np.stack(
                [moved[:, 0] * c + moved[:, 1] * s, moved[:, 1] * c - moved[:, 0] * s, moved[:, 2]], 1
            )
            owners[((own >= things.low[p]) & (own <= things.high[p])).all(1)] = things.owner[p]
        hit = np.flatnonzero(owners != -2)
        if len(hit):
            found.append((owners[hit[0]], steps[hit[0]]))
    return found


def test_every_ray_stops_where_walking_along_it_stops():
    sensor = Sensor(beams=6, azimuths=24, sector=360, lowest=-20, highest=3, reach=15, noise=0, dropout=0)
    things = solids(
        one_solid(x=7, yaw=0.4), one_solid(x=-6, y=0.1, yaw=2.0, owner=1), one_solid(x=0, y=-5, owner=2)
    )
    points, owner = cast(sensor, things, np.random.default_rng(0))
    slow = march(sensor, things)
    assert [o for o, _ in slow] == owner.tolist()
    assert {0, 1, 2, GROUND} <= set(owner.tolist())
    np.testing.assert_allclose(np.linalg.norm(points[:, :3], axis=1), [d for _, d in slow], atol=0.011)


def test_what_stands_behind_something_is_not_seen():
    wall = one_solid(x=4, size=(0.3, 12.0, 6.0), owner=1)
    _, owner = cast(SMALL, solids(one_solid(), wall), np.random.default_rng(0))
    assert 1 in owner and 0 not in owner


def test_twice_as_far_away_means_about_a_quarter_of_the_points():
    dense = Sensor(beams=200, azimuths=720, sector=90, noise=0, dropout=0)
    near, far = (
        np.sum(cast(dense, solids(one_solid(x=x, size=(1.0, 1.0, 1.0))), np.random.default_rng(0))[1] == 0)
        for x in (10, 20)
    )
    assert 0.18 < far / near < 0.32


def test_rays_are_lost_more_often_far_away():
    def ranges(dropout):
        sensor = Sensor(dropout=dropout, noise=0, sector=90)
        points, _ = cast(sensor, solids(one_solid()), np.random.default_rng(0))
        return np.linalg.norm(points[:, :3], axis=1)

    lossy, whole = ranges(0.9), ranges(0)
    assert (lossy < 10).sum() > 0.95 * (whole < 10).sum()
    assert (lossy > 40).sum() < 0.6 * (whole > 40).sum()


@pytest.mark.parametrize("name", CLASSES)
def test_every_road_user_fills_its_box_and_has_a_front(name):
    user = ROAD_USERS[name]
    pieces = solid_pieces(user, np.asarray(user.size))
    np.testing.assert_allclose(pieces[:, :3].min(0), -np.asarray(user.size) / 2)
    np.testing.assert_allclose(pieces[:, 3:].max(0), np.asarray(user.size) / 2)
    volume = (pieces[:, 3:] - pieces[:, :3]).prod(1)
    upper = pieces[:, 5] > 0.2 * user.size[2]  # a car's cabin, trunks and heads: not in the middle
    middle = (volume * pieces[:, [0, 3]].mean(1))[upper].sum() / volume[upper].sum()
    assert abs(middle) > 0.03 * user.size[0]
    mirrored = pieces[:, [3, 1, 2, 0, 4, 5]] * [-1, 1, 1, -1, 1, 1]
    assert not np.allclose(np.sort(mirrored, 0), np.sort(pieces, 0))


def test_the_same_index_is_the_same_scene_and_splits_share_none():
    one, same, other = SyntheticScenes()[3], SyntheticScenes()[3], SyntheticScenes("val")[3]
    assert torch.equal(one.points, same.points) and torch.equal(one.labels.boxes, same.labels.boxes)
    assert one.name == same.name != other.name
    assert one.points.shape != other.points.shape or not torch.equal(one.points, other.points)
    assert SyntheticScenes(seed=1)[3].points.shape != one.points.shape


def test_labelled_objects_hold_the_points_that_are_counted():
    scene = SyntheticScenes(options=SceneOptions(sensor=Sensor(noise=0)))[0]
    assert len(scene.labels.boxes) == len(scene.labels.classes) == len(scene.info["num_points"]) > 3
    for box, counted in zip(scene.labels.boxes.double(), scene.info["num_points"].tolist(), strict=True):
        moved = scene.points[:, :3].double() - box[:3]
        c, s = box[6].cos(), box[6].sin()
        along, across = moved[:, 0] * c + moved[:, 1] * s, moved[:, 1] * c - moved[:, 0] * s
        own = torch.stack([along, across, moved[:, 2]], 1)
        inside = (own.abs() <= box[3:6] / 2 + 1e-4).all(1)
        inside &= scene.points[:, 2] > -1.73 + 1e-3  # the ground below is not the object
        assert abs(int(inside.sum()) - counted) <= 2 and counted >= 5


def test_objects_do_not_overlap_and_stand_on_the_ground():
    for index in range(5):
        boxes = SyntheticScenes()[index].labels.boxes
        apart = torch.cdist(boxes[:, :2], boxes[:, :2]) + torch.eye(len(boxes)) * 99
        reach = boxes[:, 3:5].norm(dim=1) / 2
        assert (apart > reach[:, None] + reach[None] + 0.29).all()
        torch.testing.assert_close(boxes[:, 2] - boxes[:, 5] / 2, torch.full((len(boxes),), -1.73))


def test_a_scene_may_hold_nothing():
    empty = SyntheticScenes(options=SceneOptions(counts=((0, 0),) * 3, clutter=(0, 0)))[0]
    assert len(empty.points) > 1000 and empty.labels.boxes.shape == (0, 7)
    assert empty.labels.classes.shape == (0,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SyntheticScenes("dev"), r"split must be one of .*, got 'dev'"),
        (lambda: SyntheticScenes(length=0), "length must be at least 1 scene, got 0"),
        (lambda: SyntheticScenes(length=4)[4], r"index must be in 0 .. 3, got 4"),
        (lambda: SceneOptions(counts=((1, 2),)), r"counts must be \(fewest, most\) for each of"),
        (lambda: SceneOptions(area=(5, 0, 1, 2)), "area must be low x, y below high x, y in metres"),
    ],
)
def test_wrong_words_are_named(make, message):
    with pytest.raises((ValueError, IndexError), match=message):
        make()
