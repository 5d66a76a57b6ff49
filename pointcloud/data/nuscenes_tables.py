"""nuScenes' relational tables, read without its devkit, as one plain record a key frame.

Used are scene, sample, sample_data, calibrated_sensor, sensor, ego_pose, sample_annotation, instance,
category and attribute. Source: the schema in nuScenes' documentation; the velocity of an annotation as the
devkit has it, from the annotations before and after.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..metrics import NUSCENES_CLASSES
from .poses import pose_matrix

TABLES = (
    "scene", "sample", "sample_data", "calibrated_sensor", "sensor", "ego_pose", "sample_annotation",
    "instance", "category", "attribute",
)  # fmt: skip
CHANNEL = "LIDAR_TOP"
RACK = "static_object.bicycle_rack"
CATEGORIES = {
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
}
ATTRIBUTES = (
    "cycle.with_rider", "cycle.without_rider", "pedestrian.moving", "pedestrian.standing",
    "pedestrian.sitting_lying_down", "vehicle.moving", "vehicle.parked", "vehicle.stopped",
)  # fmt: skip
SECONDS = 1e-6  # of a timestamp's unit
LONGEST = 1.5  # seconds between two annotations of which a velocity is made

Row = Mapping[str, Any]


class Tables:
    """The tables of a version folder, each by token.

    Raises: FileNotFoundError, ValueError naming the file of a table that is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = {name: _read_table(folder / f"{name}.json") for name in TABLES}

    def get(self, table: str, token: str) -> Row:
        try:
            return self.rows[table][token]
        except KeyError:
            raise ValueError(
                f"{self.folder / f'{table}.json'}: has no row {token!r} that others name"
            ) from None

    def all(self, table: str) -> Iterable[Row]:
        return self.rows[table].values()


def _read_table(path: Path) -> dict[str, Row]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such table")
    try:
        return {row["token"]: row for row in json.loads(path.read_text(encoding="utf-8"))}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: must be a json list of rows with a token ({error!r})") from error


def read_records(folder: Path, scenes: Sequence[str] | None, sweeps: int) -> list[dict[str, Any]]:
    """A record for each key frame of the named scenes (None: all), by scene and time.

    Keys: ``name`` (the sample's token), ``file``, ``sweeps`` (earlier ones, nearest first: ``file``,
    ``time_lag`` s, ``matrix`` into the key frame's LiDAR), ``to_ego`` and ``to_global`` (4 x 4 from that
    LiDAR), ``boxes`` (9 values in that LiDAR's frame, None for an unknown velocity), ``classes``,
    ``attributes`` (-1: none), ``lidar_points``, ``radar_points``, ``racks`` (7 values).
    Raises: FileNotFoundError, ValueError for tables that are missing, damaged or do not fit together.
    """
    tables = Tables(folder)
    try:
        return _records(tables, scenes, sweeps)
    except KeyError as error:
        raise ValueError(f"{folder}: a row of a table lacks the column {error}") from error


def _records(tables: Tables, scenes: Sequence[str] | None, sweeps: int) -> list[dict[str, Any]]:
    rows = list(tables.all("scene"))
    known = {row["name"] for row in rows}
    if missing := [name for name in scenes or () if name not in known]:
        raise ValueError(f"{tables.folder / 'scene.json'}: has no scene {missing[0]}, which the split names")
    wanted = {row["token"] for row in rows if scenes is None or row["name"] in set(scenes)}
    frames = {
        row["sample_token"]: row
        for row in tables.all("sample_data")
        if row["is_key_frame"] and _channel(tables, row) == CHANNEL
    }
    annotations: dict[str, list[Row]] = {}
    for row in tables.all("sample_annotation"):
        annotations.setdefault(row["sample_token"], []).append(row)
    samples = [row for row in tables.all("sample") if row["scene_token"] in wanted]
    samples.sort(key=lambda row: (row["scene_token"], row["timestamp"]))
    records = []
    for sample in samples:
        token = sample["token"]
        if token not in frames:
            raise ValueError(
                f"{tables.folder / 'sample_data.json'}: has no {CHANNEL} frame of sample {token}"
            )
        records.append(_record(tables, frames[token], annotations.get(token, ()), sweeps))
    return records


def _channel(tables: Tables, data: Row) -> str:
    calibration = tables.get("calibrated_sensor", data["calibrated_sensor_token"])
    return tables.get("sensor", calibration["sensor_token"])["channel"]


def _pose(tables: Tables, table: str, token: str) -> np.ndarray:
    row = tables.get(table, token)
    return pose_matrix(row["translation"], row["rotation"])


def _to_global(tables: Tables, data: Row) -> tuple[np.ndarray, np.ndarray]:
    """From the LiDAR of a sweep to the vehicle, and to the world, at its time."""
    to_ego = _pose(tables, "calibrated_sensor", data["calibrated_sensor_token"])
    return to_ego, _pose(tables, "ego_pose", data["ego_pose_token"]) @ to_ego


def _record(tables: Tables, key: Row, annotations: Sequence[Row], sweeps: int) -> dict[str, Any]:
    to_ego, to_global = _to_global(tables, key)
    from_global = np.linalg.inv(to_global)
    record = {
        "name": key["sample_token"],
        "file": key["filename"],
        "to_ego": to_ego.tolist(),
        "to_global": to_global.tolist(),
        "sweeps": _sweeps(tables, key, from_global, sweeps - 1),
    }
    columns = ("boxes", "classes", "attributes", "lidar_points", "radar_points", "racks")
    record |= {column: [] for column in columns}
    for row in annotations:
        instance = tables.get("instance", row["instance_token"])
        category = tables.get("category", instance["category_token"])["name"]
        box = _box(row, from_global)
        if category == RACK:
            record["racks"].append(box)
        elif category in CATEGORIES:
            record["boxes"].append(box + _velocity(tables, row, from_global))
            record["classes"].append(NUSCENES_CLASSES.index(CATEGORIES[category]))
            record["attributes"].append(_attribute(tables, row))
            record["lidar_points"].append(row["num_lidar_pts"])
            record["radar_points"].append(row["num_radar_pts"])
    return record


def _sweeps(tables: Tables, key: Row, from_global: np.ndarray, count: int) -> list[dict[str, Any]]:
    """Up to ``count`` sweeps before the key frame: fewer at a scene's begin."""
    rows, current = [], key
    while len(rows) < count and current["prev"]:
        current = tables.get("sample_data", current["prev"])
        motion = from_global @ _to_global(tables, current)[1]
        lag = (key["timestamp"] - current["timestamp"]) * SECONDS
        rows.append({"file": current["filename"], "time_lag": lag, "matrix": motion.tolist()})
    return rows


def _box(row: Row, from_global: np.ndarray) -> list[float]:
    """x, y, z, length, width, height, yaw in the LiDAR's frame; nuScenes writes width first."""
    motion = from_global @ pose_matrix(row["translation"], row["rotation"])
    width, length, height = row["size"]
    yaw = np.arctan2(motion[1, 0], motion[0, 0])  # where the box's own x axis points
    return [*motion[:3, 3].tolist(), length, width, height, float(yaw)]


def _velocity(tables: Tables, row: Row, from_global: np.ndarray) -> list[float | None]:
    """Metres a second between the annotations before and after (one of them may be this one)."""
    first = tables.get("sample_annotation", row["prev"]) if row["prev"] else row
    last = tables.get("sample_annotation", row["next"]) if row["next"] else row
    begin, end = (tables.get("sample", each["sample_token"])["timestamp"] for each in (first, last))
    seconds = (end - begin) * SECONDS
    longest = LONGEST * (2 if row["prev"] and row["next"] else 1)
    if not 0 < seconds <= longest:
        return [None, None]
    step = (np.asarray(last["translation"]) - np.asarray(first["translation"])) / seconds
    return (from_global[:3, :3] @ step)[:2].tolist()


def _attribute(tables: Tables, row: Row) -> int:
    if not row["attribute_tokens"]:
        return -1
    name = tables.get("attribute", row["attribute_tokens"][0])["name"]
    if name not in ATTRIBUTES:
        raise ValueError(f"{tables.folder / 'attribute.json'}: must name one of {ATTRIBUTES}, got {name!r}")
    return ATTRIBUTES.index(name)
