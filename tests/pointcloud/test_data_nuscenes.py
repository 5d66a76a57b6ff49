"""nuScenes folders without the devkit: boxes, velocities, merged sweeps, scores, the submission file."""

import json
import math

import numpy as np
import pytest
import torch

from linzoo.pointcloud.boxes import wrap_angle
from linzoo.pointcloud.data.nuscenes import NuScenesFrames
from linzoo.pointcloud.data.nuscenes_attributes import usual_attributes
from linzoo.pointcloud.data.nuscenes_export import submission
from linzoo.pointcloud.data.nuscenes_tables import ATTRIBUTES
from linzoo.pointcloud.data.poses import move_boxes, move_points, pose_matrix
from linzoo.pointcloud.metrics import NUSCENES_CLASSES
from linzoo.pointcloud.records import Detections

from .lidar_folders import NUSCENES_NUMBERS, lidar_to_global, nothing_in, scenes, write_nuscenes

MINI = "v1.0-mini"


def boxes_close(a, b, atol=1e-4):
    torch.testing.assert_close(a[:, :6].double(), b[:, :6].double(), atol=atol, rtol=0)
    assert wrap_angle(a[:, 6].double() - b[:, 6].double()).abs().max() < atol


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    frames = scenes(2)
    return write_nuscenes(tmp_path_factory.mktemp("nuscenes"), frames), frames


def edit(folder, table, change, version=MINI):
    """Rows of a table through ``change``."""
    path = folder / version / f"{table}.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_boxes_points_and_classes_come_back_as_they_were_written(written):
    folder, frames = written
    data = NuScenesFrames(folder, MINI, "train")
    assert len(data) == 4 and data.classes == NUSCENES_CLASSES and data.point_features == 5
    for scene in (0, 1):
        frame = data[2 * scene]
        assert frame.name == f"scene-{scene:04d}-0"
        torch.testing.assert_close(frame.points[:, :3], frames[scene].points[:, :3], atol=1e-5, rtol=0)
        torch.testing.assert_close(frame.points[:, 3], frames[scene].points[:, 3] * 255)
        assert (frame.points[:, 4] == 0).all()
        boxes_close(frame.labels.boxes, frames[scene].labels.boxes, atol=1e-5)
        numbers = [NUSCENES_NUMBERS[number] for number in frames[scene].labels.classes.tolist()]
        assert frame.labels.classes.tolist() == numbers
        assert data.labelled_classes(2 * scene) == set(numbers)


def test_velocities_are_those_of_the_annotations_turned_into_the_frame(written):
    data = NuScenesFrames(written[0], MINI, "train")
    first, second = data[0], data[1]
    speed = torch.tensor([[3.0, 1.0]]).expand(len(first.labels.boxes), 2)
    torch.testing.assert_close(first.labels.boxes[:, 7:], speed, atol=1e-5, rtol=0)
    turn = lidar_to_global(1.0)[0].T @ lidar_to_global(0.5)[0]
    turned = torch.from_numpy(turn[:2, :2] @ np.array([3.0, 1.0])).float().expand(len(speed), 2)
    torch.testing.assert_close(second.labels.boxes[:, 7:], turned, atol=1e-5, rtol=0)


def test_a_velocity_that_cannot_be_told_is_zero_in_training_and_unknown_in_the_metric(tmp_path):
    folder = write_nuscenes(tmp_path, scenes(1))
    edit(folder, "sample_annotation", lambda rows: [row | {"prev": "", "next": ""} for row in rows])
    data = NuScenesFrames(folder, MINI, "train")
    assert (data[0].labels.boxes[:, 7:] == 0).all()
    assert data.metric_labels(data[0]).boxes[:, 7:].isnan().all()
    late = write_nuscenes(tmp_path / "late", scenes(1))
    edit(late, "sample", lambda rows: [row | {"timestamp": i * 9_000_000} for i, row in enumerate(rows)])
    assert NuScenesFrames(late, MINI, "train")[0].info["all_boxes"][:, 7:].isnan().all()


def test_sweeps_are_merged_by_ego_pose_with_their_time_lags(written):
    """What stands still in the world stands still in the merged points, whatever the vehicle does."""
    folder, frames = written
    data = NuScenesFrames(folder, MINI, "train", sweeps=3)
    second = data[1]
    lags = second.points[:, 4].unique()
    torch.testing.assert_close(lags, torch.tensor([0.0, 1 / 6, 2 / 6]), atol=2e-6, rtol=0)
    key = second.points[second.points[:, 4] == 0][:, :4]
    n = len(frames[0].points)
    assert len(key) == n
    for lag in lags[1:]:
        earlier = second.points[second.points[:, 4] == lag][:, :4]
        apart = torch.cdist(earlier[::40, :3].double(), key[:, :3].double()).amin(1)
        assert len(earlier) > 0.9 * n and apart.max() < 1e-4
    assert torch.equal(NuScenesFrames(folder, MINI, "train")[1].points, second.points[:n])
    assert len(NuScenesFrames(folder, MINI, "train", sweeps=10)[0].points) <= 3 * n  # a scene's begin: fewer


def test_points_on_the_vehicle_are_removed_from_earlier_sweeps_alone(tmp_path):
    frame = scenes(1)[0]
    for row, xy in enumerate([(0.5, -0.5), (0.99, 0.99), (1.01, 0.0), (0.0, -1.01)]):
        frame.points[row, :3] = torch.tensor([*xy, 0.3])
    folder = write_nuscenes(tmp_path, [frame])
    data = NuScenesFrames(folder, MINI, "train", sweeps=2)
    lag = data[0].points[:, 4]
    path = folder / next(row["file"] for row in data.record(0)["sweeps"])
    raw = np.fromfile(path, "<f4").reshape(-1, 5)
    close = (np.abs(raw[:, :2]) < 1).all(1).sum()
    assert close >= 1 and (lag == 0).sum() == len(raw) and (lag > 0).sum() == len(raw) - close


def test_objects_without_lidar_points_are_not_labels_but_count_for_the_metric_if_radar_sees_them(tmp_path):
    folder = write_nuscenes(tmp_path, scenes(1), points_of_objects=0)
    data = NuScenesFrames(folder, MINI, "train")
    frame = data[0]
    assert len(frame.labels.boxes) == 0 and frame.labels.boxes.shape[1] == 9
    assert data.labelled_classes(0) == set()
    assert (data.metric_labels(frame).num_points == 1).all() and len(data.metric_labels(frame).boxes) > 3


def test_other_categories_are_left_out_and_racks_take_their_bicycles_with_them(tmp_path):
    folder = write_nuscenes(tmp_path, scenes(1))
    data = NuScenesFrames(folder, MINI, "train")
    count, bicycle = len(data[0].labels.boxes), NUSCENES_CLASSES.index("bicycle")
    bicycles = (data[0].labels.classes == bicycle).nonzero()[:, 0].tolist()
    car = data[0].labels.classes.tolist().index(0)

    def add_rack(rows):
        there = next(row for row in rows if row["token"] == f"scene-0000-object-{bicycles[0]}-0")
        return [*rows, there | {"token": "rack", "instance_token": "rack", "size": [3.0, 3.0, 3.0]}]

    edit(folder, "instance", lambda rows: [
        row | ({"category_token": "category-animal"} if row["token"].endswith(f"object-{car}") else {})
        for row in [*rows, {"token": "rack", "category_token": "category-static_object.bicycle_rack"}]
    ])  # fmt: skip
    edit(folder, "sample_annotation", add_rack)
    data = NuScenesFrames(folder, MINI, "train")
    frame = data[0]
    assert len(frame.labels.boxes) == count - 1 and frame.info["racks"].shape == (1, 7)
    labels = data.metric_labels(frame)
    assert (labels.classes == bicycle).sum() == len(bicycles) - 1
    found = Detections(frame.labels.boxes, torch.ones(count - 1), frame.labels.classes)
    assert data.score([found], [labels])["bicycle_AP"] == pytest.approx(1 if len(bicycles) > 1 else 0)


def test_a_frame_without_objects_has_no_rows(tmp_path):
    frame = NuScenesFrames(write_nuscenes(tmp_path, [nothing_in(scenes(1)[0])]), MINI, "train")[0]
    assert frame.labels.boxes.shape == (0, 9) and frame.labels.classes.dtype == torch.int64


def test_finding_every_label_has_no_error_and_ranges_are_measured_from_the_vehicle(written):
    data = NuScenesFrames(written[0], MINI, "train")
    frames = [data[index] for index in range(4)]
    labels = [data.metric_labels(frame) for frame in frames]
    right = [
        Detections(frame.labels.boxes, torch.linspace(1, 0.5, len(frame.labels.boxes)), frame.labels.classes)
        for frame in frames
    ]
    figures = data.score(right, labels)
    for name in ("car", "pedestrian", "bicycle"):
        assert figures[f"{name}_AP"] == pytest.approx(1)
    assert figures["score"] == figures["NDS"] and figures["mAP"] == pytest.approx(0.3)
    for frame, one in zip(frames, labels, strict=True):  # the vehicle's origin lies 0.9 m behind the sensor
        away = frame.info["all_boxes"][:, :2].double() - torch.tensor([0.0, -0.9])
        torch.testing.assert_close(one.boxes[:, :2].double().norm(dim=1), away.norm(dim=1), atol=1e-4, rtol=0)


def test_the_submission_holds_the_boxes_in_the_world_and_reads_back(written):
    data = NuScenesFrames(written[0], MINI, "train")
    tables = {
        row["token"]: row for row in json.loads((written[0] / MINI / "sample_annotation.json").read_text())
    }
    frames = [data[0], data[3]]
    found = {
        frame.name: Detections(frame.labels.boxes, torch.rand(len(frame.labels.boxes)), frame.labels.classes)
        for frame in frames
    }
    content = submission(found, {frame.name: frame.info["to_global"] for frame in frames}, data.classes)
    content = json.loads(json.dumps(content))
    assert set(content) == {"meta", "results"} and content["meta"]["use_lidar"] is True
    for frame in frames:
        rows = content["results"][frame.name]
        scores = [row["detection_score"] for row in rows]
        assert scores == sorted(scores, reverse=True) and len(rows) == len(frame.labels.boxes)
        truths = [row for row in tables.values() if row["sample_token"] == frame.name]
        for row in rows:
            truth = min(truths, key=lambda t: math.dist(t["translation"], row["translation"]))
            assert math.dist(truth["translation"], row["translation"]) < 1e-3
            np.testing.assert_allclose(row["size"], truth["size"], atol=1e-4)
            turns = np.abs(np.dot(row["rotation"], truth["rotation"]))
            assert turns == pytest.approx(1, abs=1e-6)
            assert row["attribute_name"] in ("vehicle.moving", "pedestrian.moving", "cycle.with_rider")
            np.testing.assert_allclose(np.hypot(*row["velocity"]), np.hypot(3, 1), atol=1e-4)
        back = torch.tensor([row["translation"] for row in rows], dtype=torch.float64)
        there = move_points(back, np.linalg.inv(frame.info["to_global"]))
        order = found[frame.name].scores.argsort(descending=True)
        torch.testing.assert_close(there, frame.labels.boxes[order, :3].double(), atol=1e-3, rtol=0)


def test_at_most_500_boxes_a_sample_are_submitted_and_a_pose_must_be_there():
    boxes = torch.rand(600, 7) + 1
    found = Detections(boxes, torch.linspace(0, 1, 600), torch.zeros(600, dtype=torch.int64))
    rows = submission({"a": found}, {"a": np.eye(4)}, NUSCENES_CLASSES)["results"]["a"]
    assert len(rows) == 500 and rows[0]["detection_score"] == 1 and rows[0]["velocity"] == [0, 0]
    with pytest.raises(ValueError, match="to_global must have every sample, got none for a"):
        submission({"a": found}, {}, NUSCENES_CLASSES)


def test_attributes_follow_class_and_speed():
    boxes = torch.zeros(7, 9)
    boxes[:, 3:6] = 1
    boxes[:4, 7] = 1.0
    kinds = ("car", "bicycle", "pedestrian", "barrier", "bus", "motorcycle", "trailer")
    classes = torch.tensor([NUSCENES_CLASSES.index(name) for name in kinds])
    numbers = usual_attributes(Detections(boxes, torch.ones(7), classes), NUSCENES_CLASSES)
    names = [None if number < 0 else ATTRIBUTES[number] for number in numbers.tolist()]
    assert names == ["vehicle.moving", "cycle.with_rider", "pedestrian.moving", None, "vehicle.stopped",
                     "cycle.without_rider", "vehicle.parked"]  # fmt: skip


def test_a_motion_carries_points_boxes_and_velocities_as_its_matrix_does():
    matrix = pose_matrix([1.0, 2.0, 3.0], [2 * math.cos(0.3), 0, 0, 2 * math.sin(0.3)])  # any length: .6 rad
    box = torch.tensor([[4.0, 0, 1, 4, 2, 1.5, 0.5, 2, 0]])
    moved = move_boxes(box, matrix)
    c, s = math.cos(0.6), math.sin(0.6)
    wanted = torch.tensor([[1 + 4 * c, 2 + 4 * s, 4, 4, 2, 1.5, 1.1, 2 * c, 2 * s]])
    torch.testing.assert_close(moved, wanted)
    torch.testing.assert_close(
        move_points(box[:, :4], matrix)[0], torch.tensor([1 + 4 * c, 2 + 4 * s, 4, 4.0])
    )
    tilted = pose_matrix([0, 0, 0], [math.cos(0.02), math.sin(0.02), 0, 0])
    assert move_boxes(box, tilted)[0, 6] == pytest.approx(
        math.atan2(math.sin(0.5) * math.cos(0.04), math.cos(0.5))
    )


def test_splits_are_lists_of_scenes_and_all_needs_none(written, tmp_path):
    folder, _ = written
    assert len(NuScenesFrames(folder, MINI, "all")) == 4
    with pytest.raises(
        ValueError, match=r"splits.json or mini_val.txt must say which scenes are split 'mini_val'"
    ):
        NuScenesFrames(folder, MINI, "mini_val")
    (folder / "one.txt").write_text("scene-0001\n")
    assert [NuScenesFrames(folder, MINI, "one")[i].name for i in (0, 1)] == ["scene-0001-0", "scene-0001-1"]
    (folder / "odd.txt").write_text("scene-7777\n")
    with pytest.raises(ValueError, match="has no scene scene-7777, which the split names"):
        NuScenesFrames(folder, MINI, "odd")
    (folder / MINI / "none.txt").write_text("\n")
    with pytest.raises(ValueError, match="the list of scenes of split 'none' is empty"):
        NuScenesFrames(folder, MINI, "none")


def damaged(folder, path, content):
    if content is None:
        (folder / path).unlink()
    else:
        (folder / path).write_bytes(content)


BROKEN = [
    (f"{MINI}/sample.json", None, "there is no such table"),
    (f"{MINI}/sample.json", b'[{"token": ', "must be a json list of rows"),
    (f"{MINI}/sample.json", b'[{"name": 1}]', "a row lacks the column"),
    (f"{MINI}/sample.json", b"3", "must be a json list of rows, got int"),
    (f"{MINI}/ego_pose.json", b"[]", "ego_pose.json: has no row 'scene-0000-pose-"),
    (f"{MINI}/category.json", b"[]", "category.json: has no row 'category-"),
    (f"{MINI}/sample_data.json", b"[]", "has no LIDAR_TOP frame of sample scene-0000-0"),
    (f"{MINI}/scene.json", b'[{"token": "scene-0000"}]', "a row lacks the column 'name'"),
    (f"{MINI}/scene.json", b"[]", "has no scene scene-0000, which the split names"),
    ("splits.json", b"[1]", "must be json .split: .scene names.. "),
    ("splits.json", b'{"train": "scene-0000"}', "scene names.., 'train' is 'scene-0000'"),
    ("train.txt", b"\xff", "train.txt: must be a UTF-8 text, got the byte 0xff"),
    ("samples/LIDAR_TOP/scene-0000-2.pcd.bin", bytes(21), "rows of 5 float32"),
    ("sweeps/LIDAR_TOP/scene-0000-1.pcd.bin", None, "there is no such file of points"),
]


@pytest.mark.parametrize(("path", "content", "message"), BROKEN, ids=lambda value: str(value)[:30])
def test_a_broken_file_is_named_with_its_fault(tmp_path, path, content, message):
    folder = write_nuscenes(tmp_path, scenes(1))
    damaged(folder, path, content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        NuScenesFrames(folder, MINI, "train", sweeps=2)[0]
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("table", "column", "value", "message"),
    [
        ("ego_pose", "rotation", [0, 0, 0, 0], r"a list of 4 finite numbers, not all 0, got \[0, 0, 0, 0\]"),
        ("ego_pose", "translation", [1, float("nan"), 0], "a list of 3 finite numbers, got"),
        ("calibrated_sensor", "rotation", [1, 0, 0], "a list of 4 finite numbers"),
        ("sample_annotation", "size", [1, 2], r"a list of 3 finite numbers, got \[1, 2\]"),
        ("sample_annotation", "size", None, "a list of 3 finite numbers, got None"),
        ("sample_annotation", "translation", "abc", "a list of 3 finite numbers, got 'abc'"),
        ("sample_annotation", "translation", ["1", 2, 3], "a list of 3 finite numbers, got"),
        ("sample_annotation", "num_lidar_pts", None, "a finite number, got None"),
        ("sample", "timestamp", "now", "a finite number, got 'now'"),
    ],
)
def test_a_rows_numbers_are_told_by_file_row_and_column(tmp_path, table, column, value, message):
    path = write_nuscenes(tmp_path, scenes(1)) / MINI / f"{table}.json"
    rows = json.loads(path.read_text())
    rows[0][column] = value
    path.write_text(json.dumps(rows))
    wanted = rf"{table}\.json: row '{rows[0]['token']}' must have {column} as {message}"
    with pytest.raises(ValueError, match=wanted):
        NuScenesFrames(tmp_path, MINI)


def test_no_frames_at_all_are_refused(tmp_path):
    folder = write_nuscenes(tmp_path, scenes(1))
    (folder / MINI / "sample.json").write_text("[]")
    with pytest.raises(ValueError, match="split 'train' must hold at least one frame, got none"):
        NuScenesFrames(folder, MINI)


def test_wrong_words_are_named(written):
    wanted = r"must hold the folder of tables v1\.0-trainval/, there is v1\.0-mini/"
    with pytest.raises(FileNotFoundError, match=wanted):
        NuScenesFrames(written[0])
    with pytest.raises(ValueError, match="sweeps must be at least 1, the key frame, got 0"):
        NuScenesFrames(written[0], MINI, sweeps=0)
