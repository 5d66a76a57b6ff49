"""Tiny folders in the layouts of KITTI, nuScenes and Waymo, written from frames that the tests hold.

Frames are ``Frame``s in the LiDAR's coordinates of the data set; each writer turns them into the files that
the data set has, by formulas of its own.
"""

import json
import math
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from linzoo.pointcloud.data.raycast import Sensor
from linzoo.pointcloud.data.synthetic import SceneOptions, SyntheticScenes
from linzoo.pointcloud.records import Frame, Labels

SENSOR = Sensor(beams=16, azimuths=128)
CLASSES = {"kitti": ("Car", "Pedestrian", "Cyclist"), "waymo": ("Vehicle", "Pedestrian", "Cyclist")}
NUSCENES_CATEGORIES = ("vehicle.car", "human.pedestrian.adult", "vehicle.bicycle")
NUSCENES_NUMBERS = (0, 8, 7)  # of car, pedestrian, bicycle among the ten classes
FOCAL, PICTURE = 500.0, (1000, 400)
KITTI_CALIBRATION = {  # the camera looks along the LiDAR's x, 0.3 m ahead of it and 0.1 m below
    "P2": [FOCAL, 0, 500, 40, 0, FOCAL, 180, 2, 0, 0, 1, 0.003],
    "R0_rect": None,  # a small turn, filled in below
    "Tr_velo_to_cam": [0, -1, 0, 0.02, 0, 0, -1, -0.1, 1, 0, 0, -0.3],
}
EGO_FROM_LIDAR = ([0.9, 0.0, 1.8], [math.cos(-math.pi / 4), 0, 0, math.sin(-math.pi / 4)])


def scenes(count: int = 2, **options) -> list[Frame]:
    """Synthetic frames, small."""
    drawn = SyntheticScenes(length=count, options=SceneOptions(sensor=SENSOR, **options))
    return [drawn[index] for index in range(count)]


def nothing_in(frame: Frame) -> Frame:
    """The same points without labels."""
    labels = Labels(frame.labels.boxes[:0], frame.labels.classes[:0])
    return Frame(points=frame.points, labels=labels, name=frame.name, info={"num_points": torch.zeros(0)})


# KITTI ----------------------------------------------------------------------------------------------------


def small_turn() -> np.ndarray:
    a, b = 0.01, -0.02
    about_x = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    about_y = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    return about_x @ about_y


def kitti_calibration() -> str:
    rows = dict(KITTI_CALIBRATION, R0_rect=small_turn().ravel().tolist(), P0=KITTI_CALIBRATION["P2"])
    return "".join(f"{name}: {' '.join(f'{v:.12e}' for v in row)}\n" for name, row in rows.items()) + "\n"


def kitti_label(name: str, box, picture=(10.0, 20.0, 60.0, 90.0), occlusion=0, truncation=0.0) -> str:
    """A label line of a LiDAR box (x, y, z, dx, dy, dz, yaw)."""
    x, y, z, length, width, height, yaw = (float(value) for value in box[:7])
    transform = np.array(KITTI_CALIBRATION["Tr_velo_to_cam"]).reshape(3, 4)
    bottom = small_turn() @ (transform @ np.array([x, y, z - height / 2, 1]))
    ry = math.remainder(-yaw - math.pi / 2, 2 * math.pi)
    alpha = ry - math.atan2(bottom[0], bottom[2])
    numbers = [alpha, *picture, height, width, length, *bottom, ry]
    return f"{name} {truncation:.2f} {occlusion} {' '.join(f'{v:.9f}' for v in numbers)}\n"


def png(width: int, height: int) -> bytes:
    """A black picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" * (width + 1)) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def write_kitti(folder: Path, frames: list[Frame], splits=None, extra_lines: str = "") -> Path:
    """A KITTI folder. ``splits``: names of lists and the frames in each; None: all are train and val."""
    names = [f"{index:06d}" for index in range(len(frames))]
    for part in ("velodyne", "label_2", "calib", "image_2"):
        (folder / "training" / part).mkdir(parents=True, exist_ok=True)
    for name, frame in zip(names, frames, strict=True):
        frame.points.numpy().astype("<f4").tofile(folder / "training/velodyne" / f"{name}.bin")
        lines = [
            kitti_label(CLASSES["kitti"][number], box)
            for box, number in zip(frame.labels.boxes, frame.labels.classes.tolist(), strict=True)
        ]
        (folder / "training/label_2" / f"{name}.txt").write_text("".join(lines) + extra_lines)
        (folder / "training/calib" / f"{name}.txt").write_text(kitti_calibration())
        (folder / "training/image_2" / f"{name}.png").write_bytes(png(*PICTURE))
    (folder / "ImageSets").mkdir(exist_ok=True)
    for split, members in (splits or {"train": names, "val": names}).items():
        (folder / "ImageSets" / f"{split}.txt").write_text("\n".join(members) + "\n")
    return folder


# nuScenes -------------------------------------------------------------------------------------------------


def turn_matrix(yaw: float) -> np.ndarray:
    return np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])


def ego_pose(time: float) -> tuple[np.ndarray, float]:
    """Where the vehicle is at a time (s), and its yaw: it drives 5 m/s round a bend."""
    return np.array([400 + 5 * time, 900 + 0.4 * time * time, 0.2]), 0.3 + 0.1 * time


def lidar_to_global(time: float) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (3, 3) and translation (3,)."""
    place, yaw = ego_pose(time)
    turn = turn_matrix(yaw)
    return turn @ turn_matrix(-math.pi / 2), turn @ np.array(EGO_FROM_LIDAR[0]) + place


def write_nuscenes(
    folder: Path,
    frames: list[Frame],
    version="v1.0-mini",
    sweeps=2,
    points_of_objects=10,
    velocity=(3.0, 1.0),
) -> Path:
    """A nuScenes folder with one scene a frame of ``frames``: two key frames, half a second apart.

    Between key frames lie ``sweeps`` sweeps. The points of every sweep are those of the frame, moved so that
    they stand still in the world. Objects move at ``velocity`` (x, y m/s in the LiDAR's frame of the first
    key frame), so the first key frame of scene i has the boxes of ``frames[i]``.
    """
    tables = {
        name: [] for name in ("scene", "sample", "sample_data", "ego_pose", "sample_annotation", "instance")
    }
    tables["sensor"] = [
        {"token": "lidar", "channel": "LIDAR_TOP", "modality": "lidar"},
        {"token": "front", "channel": "CAM_FRONT", "modality": "camera"},
    ]
    tables["calibrated_sensor"] = [
        {"token": f"calibrated-{name}", "sensor_token": name, "translation": EGO_FROM_LIDAR[0],
         "rotation": EGO_FROM_LIDAR[1], "camera_intrinsic": []}
        for name in ("lidar", "front")
    ]  # fmt: skip
    categories = (*NUSCENES_CATEGORIES, "animal", "static_object.bicycle_rack")
    tables["category"] = [{"token": f"category-{name}", "name": name} for name in categories]
    names = ("vehicle.moving", "pedestrian.moving", "cycle.with_rider")
    tables["attribute"] = [{"token": f"attribute-{name}", "name": name} for name in names]
    for number, frame in enumerate(frames):
        _nuscenes_scene(folder, tables, number, frame, sweeps, points_of_objects, velocity)
    (folder / version).mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        (folder / version / f"{name}.json").write_text(json.dumps(rows))
    members = [f"scene-{number:04d}" for number in range(len(frames))]
    (folder / "splits.json").write_text(json.dumps({"train": members, "val": members}))
    return folder


def _nuscenes_scene(folder, tables, number, frame, sweeps, points_of_objects, velocity) -> None:
    scene, period = f"scene-{number:04d}", 0.5 / (sweeps + 1)
    keys = (0.5, 1.0)  # seconds; sweeps before the first key frame too
    times = [0.5 - period * k for k in range(sweeps, 0, -1)] + [0.5 + period * k for k in range(sweeps + 2)]
    tables["scene"].append(
        {"token": scene, "name": scene, "first_sample_token": f"{scene}-0", "log_token": ""}
    )
    for place in range(2):
        tables["sample"].append(
            {"token": f"{scene}-{place}", "timestamp": micro(keys[place]), "scene_token": scene,
             "prev": f"{scene}-0" if place else "", "next": "" if place else f"{scene}-1"}
        )  # fmt: skip
    first_turn, first_place = lidar_to_global(keys[0])
    still = frame.points[:, :3].double().numpy() @ first_turn.T + first_place
    for index, time in enumerate(times):
        is_key = any(abs(time - key) < 1e-9 for key in keys)
        file = f"{'samples' if is_key else 'sweeps'}/LIDAR_TOP/{scene}-{index}.pcd.bin"
        turn, place = lidar_to_global(time)
        seen = np.concatenate(
            [(still - place) @ turn, frame.points[:, 3:4].numpy() * 255, still[:, :1] * 0 + 7], 1
        )
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        seen.astype("<f4").tofile(folder / file)
        yaw = ego_pose(time)[1]
        tables["ego_pose"].append(
            {"token": f"{scene}-pose-{index}", "timestamp": micro(time),
             "translation": ego_pose(time)[0].tolist(),
             "rotation": [math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)]}
        )  # fmt: skip
        sample = f"{scene}-{int(time > 0.5 + 1e-9)}"
        for sensor in ("lidar", "front")[: 2 if is_key else 1]:
            tables["sample_data"].append(
                {"token": f"{scene}-{sensor}-{index}", "sample_token": sample, "is_key_frame": is_key,
                 "ego_pose_token": f"{scene}-pose-{index}", "calibrated_sensor_token": f"calibrated-{sensor}",
                 "timestamp": micro(time), "filename": file if sensor == "lidar" else "samples/front.jpg",
                 "prev": f"{scene}-lidar-{index - 1}" if index else "",
                 "next": f"{scene}-lidar-{index + 1}" if index + 1 < len(times) else ""}
            )  # fmt: skip
    _nuscenes_objects(tables, scene, frame, keys, points_of_objects, velocity)


def _nuscenes_objects(tables, scene, frame, keys, points_of_objects, velocity) -> None:
    turn, place = lidar_to_global(keys[0])
    speed = turn @ np.array([*velocity, 0.0])
    yaw_there = math.atan2(turn[1, 0], turn[0, 0])
    rows = zip(frame.labels.boxes.double().tolist(), frame.labels.classes.tolist(), strict=True)
    for index, (box, number) in enumerate(rows):
        instance = f"{scene}-object-{index}"
        category = f"category-{NUSCENES_CATEGORIES[number]}"
        tables["instance"].append({"token": instance, "category_token": category})
        attribute = tables["attribute"][number]["token"]
        centre = turn @ np.array(box[:3]) + place
        yaw = yaw_there + box[6]
        for k in (0, 1):
            tables["sample_annotation"].append(
                {"token": f"{instance}-{k}", "sample_token": f"{scene}-{k}", "instance_token": instance,
                 "attribute_tokens": [attribute], "translation": (centre + k * 0.5 * speed).tolist(),
                 "size": [box[4], box[3], box[5]], "rotation": [math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)],
                 "num_lidar_pts": points_of_objects, "num_radar_pts": 1,
                 "prev": f"{instance}-0" if k else "", "next": "" if k else f"{instance}-1"}
            )  # fmt: skip


def micro(seconds: float) -> int:
    return 1_500_000_000_000_000 + round(seconds * 1e6)


# Waymo ----------------------------------------------------------------------------------------------------


def write_waymo(folder: Path, frames: list[Frame], sequences: int = 1, protocol: int = 4) -> Path:
    """A folder of sequences with all ``frames`` in each, elongation .5, a tenth of the points in zones."""
    names = [f"segment-{number}_with_camera_labels" for number in range(sequences)]
    for name in names:
        place = folder / "waymo_processed_data_v0_5_0" / name
        place.mkdir(parents=True, exist_ok=True)
        rows = []
        for index, frame in enumerate(frames):
            points = frame.points.numpy()
            zone = np.where(np.arange(len(points)) % 10 == 3, 1.0, -1.0)
            columns = np.concatenate([points, np.full((len(points), 1), 0.5), zone[:, None]], 1)
            np.save(place / f"{index:04d}.npy", columns.astype(np.float32))
            rows.append(_waymo_row(name, index, frame))
        (place / f"{name}.pkl").write_bytes(pickle.dumps(rows, protocol=protocol))
    (folder / "ImageSets").mkdir(exist_ok=True)
    for split in ("train", "val"):
        (folder / "ImageSets" / f"{split}.txt").write_text("".join(f"{name}.tfrecord\n" for name in names))
    return folder


def _waymo_row(sequence: str, index: int, frame: Frame) -> dict:
    boxes = frame.labels.boxes.double().numpy()
    names = np.array([CLASSES["waymo"][number] for number in frame.labels.classes.tolist()], dtype="<U12")
    sign = np.array([[30.0, 5, 1, 0.2, 1, 1, 0]])
    return {
        "point_cloud": {"num_features": 5, "lidar_sequence": sequence, "sample_idx": index},
        "frame_id": f"{sequence}_{index:03d}",
        "pose": np.eye(4, dtype=np.float32),
        "annos": {
            "name": np.append(names, "Sign"),
            "gt_boxes_lidar": np.concatenate([boxes, sign]),
            "num_points_in_gt": np.append(frame.info["num_points"].numpy(), np.int64(4)).astype(np.int64),
        },
    }
