"""The reader and the submission against nuScenes' own devkit, where that is installed."""

import json

import numpy as np
import pytest
import torch

from linzoo.pointcloud.data.nuscenes import NuScenesFrames
from linzoo.pointcloud.data.nuscenes_export import submission
from linzoo.pointcloud.data.nuscenes_tables import CATEGORIES
from linzoo.pointcloud.records import Detections

from .lidar_folders import scenes, write_nuscenes

MINI = "v1.0-mini"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Our reader and the devkit's on one folder, whose sensor is tilted a little as real ones are."""
    pytest.importorskip("nuscenes.nuscenes", reason="nuscenes-devkit is not installed", exc_type=ImportError)
    from nuscenes.nuscenes import NuScenes

    folder = write_nuscenes(tmp_path_factory.mktemp("nuscenes"), scenes(2), sweeps=3)
    for name in ("visibility", "log"):
        (folder / MINI / f"{name}.json").write_text("[]")
    (folder / "map.png").write_bytes(b"")
    maps = [{"token": "map", "filename": "map.png", "category": "", "log_tokens": []}]
    (folder / MINI / "map.json").write_text(json.dumps(maps))
    path = folder / MINI / "calibrated_sensor.json"
    rows = json.loads(path.read_text())
    for row in rows:
        tilted = np.add(row["rotation"], (0, 0.01, -0.02, 0))
        row["rotation"] = (tilted / np.linalg.norm(tilted)).tolist()
    path.write_text(json.dumps(rows))
    return NuScenesFrames(folder, MINI, "all", sweeps=4), NuScenes(MINI, str(folder), verbose=False)


def test_boxes_and_velocities_equal_the_devkits(opened):
    data, devkit = opened
    for index in range(len(data)):
        frame = data[index]
        sample = devkit.get("sample", frame.name)
        _, boxes, _ = devkit.get_sample_data(sample["data"]["LIDAR_TOP"])
        boxes = [box for box in boxes if box.name in CATEGORIES]
        assert len(boxes) == len(frame.labels.boxes) > 3
        to_lidar = np.linalg.inv(frame.info["to_global"])[:3, :3]
        for box, ours, number in zip(boxes, frame.labels.boxes, frame.labels.classes.tolist(), strict=True):
            assert CATEGORIES[box.name] == data.classes[number]
            heading = box.rotation_matrix[:, 0]
            width, length, height = box.wlh
            speed = to_lidar @ devkit.box_velocity(box.token)
            yaw = np.arctan2(heading[1], heading[0])
            wanted = [*box.center, length, width, height, yaw, *speed[:2]]
            np.testing.assert_allclose(ours, wanted, atol=2e-5)


def test_merged_sweeps_equal_the_devkits(opened):
    from nuscenes.utils.data_classes import LidarPointCloud

    data, devkit = opened
    for index in range(len(data)):
        frame = data[index]
        sample = devkit.get("sample", frame.name)
        cloud, lags = LidarPointCloud.from_file_multisweep(
            devkit, sample, "LIDAR_TOP", "LIDAR_TOP", nsweeps=4, min_distance=1.0
        )
        theirs = np.concatenate([cloud.points, lags]).T  # the key frame first, its close points removed too
        ours = frame.points.numpy()
        key_and_close = (ours[:, 4] == 0) & (np.abs(ours[:, :2]) < 1).all(1)
        np.testing.assert_allclose(ours[~key_and_close], theirs, atol=5e-5)


def test_the_submission_is_what_the_devkit_reads_and_gives_back_its_boxes(opened):
    from nuscenes.eval.detection.data_classes import DetectionBox
    from nuscenes.utils.data_classes import Box
    from pyquaternion import Quaternion

    data, devkit = opened
    frame = data[1]
    found = Detections(frame.labels.boxes, torch.ones(len(frame.labels.boxes)), frame.labels.classes)
    rows = submission({frame.name: found}, {frame.name: frame.info["to_global"]}, data.classes)["results"]
    boxes = devkit.get_boxes(devkit.get("sample", frame.name)["data"]["LIDAR_TOP"])
    for row, truth in zip(rows[frame.name], boxes, strict=True):
        read = DetectionBox.deserialize(row)
        mine = Box(read.translation, read.size, Quaternion(read.rotation))
        np.testing.assert_allclose(mine.center, truth.center, atol=2e-4)
        np.testing.assert_allclose(mine.wlh, truth.wlh, atol=1e-5)
        a, b = mine.rotation_matrix[:2, 0], truth.rotation_matrix[:2, 0]  # a box cannot tilt
        assert abs(a[0] * b[1] - a[1] * b[0]) < 2e-3 and np.dot(a, b) > 0.99
        np.testing.assert_allclose(read.velocity, devkit.box_velocity(truth.token)[:2], atol=0.15)
