"""nuScenes' relational tables, read without its devkit, as one plain record a key frame.

Used are scene, sample, sample_data, calibrated_sensor, sensor, ego_pose, sample_annotation, instance,
category and attribute. Source: the schema in nuScenes' documentation; the velocity of an annotation as the
devkit has it, from the annotations before and after.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from ..metrics import NUSCENES_CLASSES
from .poses import pose_matrix

COLUMNS = {  # what is kept of each table, besides the token
    "sensor": ("channel",),
    "calibrated_sensor": ("sensor_token", "translation", "rotation"),
    "sample_data": ("sample_token", "ego_pose_token", "calibrated_sensor_token", "timestamp", "filename",
                    "is_key_frame", "prev"),
    "ego_pose": ("translation", "rotation"),
    "scene": ("name",),
    "sample": ("scene_token", "timestamp"),
    "sample_annotation": ("sample_token", "instance_token", "attribute_tokens", "translation", "size",
                          "rotation", "num_lidar_pts", "num_radar_pts", "prev", "next"),
    "instance": ("category_token",),
    "category": ("name",),
    "attribute": ("name",),
}  # fmt: skip
NUMBERS = {  # how many finite numbers a column holds; 0: one, and no list
    "translation": 3, "rotation": 4, "size": 3, "timestamp": 0, "num_lidar_pts": 0, "num_radar_pts": 0,
}  # fmt: skip
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
    """The tables of a version folder, each by token; of sweeps and their poses the LiDAR's alone.

    Raises: FileNotFoundError, ValueError naming the file of a table that is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, dict[str, Row]] = {}
        for name in COLUMNS:
            self.rows[name] = _read_table(folder / f"{name}.json", COLUMNS[name], self._wanted(name))

    def _wanted(self, table: str) -> Callable[[Row], bool]:
        """Which rows are kept: most sweeps are pictures, and they would fill the memory."""
        if table == "sample_data":
            lidars = {token for token, row in self.rows["sensor"].items() if row["channel"] == CHANNEL}
            mounted = {
                token
                for token, row in self.rows["calibrated_sensor"].items()
                if row["sensor_token"] in lidars
            }
            return lambda row: row["calibrated_sensor_token"] in mounted
        if table == "ego_pose":
            poses = {row["ego_pose_token"] for row in self.rows["sample_data"].values()}
            return lambda row: row["token"] in poses
        return lambda row: True

    def get(self, table: str, token: str) -> Row:
        try:
            return self.rows[table][token]
        except KeyError:
            raise ValueError(
                f"{self.folder / f'{table}.json'}: has no row {token!r} that others name"
            ) from None

    def items(self, table: str) -> Iterable[tuple[str, Row]]:
        return self.rows[table].items()


def _read_table(path: Path, columns: Sequence[str], wanted: Callable[[Row], bool]) -> dict[str, Row]:
    """Rows are cut to their columns as they are parsed."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such table")
    found: dict[str, Row] = {}

    def keep(row: Row) -> None:
        if wanted(row):
            found[row["token"]] = {name: row[name] for name in columns}
            check_numbers(path, row, numbers)

    numbers = [name for name in columns if name in NUMBERS]
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_hook=keep)
    except KeyError as error:
        raise ValueError(f"{path}: a row lacks the column {error}") from error
    except NumbersError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: must be a json list of rows ({error})") from error
    if not isinstance(content, list):
        raise ValueError(f"{path}: must be a json list of rows, got {type(content).__name__}")
    return found


class NumbersError(ValueError):
    """A row's numbers are not what their column holds."""


def check_numbers(path: Path, row: Row, names: Sequence[str]) -> None:
    """Raises: NumbersError naming the file, the row and the column; a turn of length 0 is none either."""
    for name in names:
        value, count = row[name], NUMBERS[name]
        if not (are_numbers(value, count) and (name != "rotation" or any(value))):
            wanted = f"a list of {count} finite numbers" if count else "a finite number"
            wanted += ", not all 0" if name == "rotation" else ""
            raise NumbersError(f"{path}: row {row['token']!r} must have {name} as {wanted}, got {value!r}")


def are_numbers(value: Any, count: int) -> bool:
    """Whether a json value is a list of ``count`` finite numbers, or of count 0 a finite number."""
    if count and not (isinstance(value, list) and len(value) == count):
        return False
    try:
        return isfinite(sum(value) if count else value)  # of a million rows: one NaN makes the sum one
    except TypeError:
        return False


def read_records(folder: Path, scenes: Sequence[str] | None, sweeps: int) -> list[dict[str, Any]]:
    """A record for each key frame of the named scenes (None: all), by scene and time.

    Keys: ``name`` (the sample's token), ``file``, ``sweeps`` (earlier ones, nearest first: ``file``,
    ``time_lag`` s, ``matrix`` into the key frame's LiDAR), ``to_ego`` and ``to_global`` (4 x 4 from that
    LiDAR), ``boxes`` (9 values in that LiDAR's frame, None for an unknown velocity), ``classes``,
    ``attributes`` (-1: none), ``lidar_points``, ``radar_points``, ``racks`` (7 values).
    Raises: FileNotFoundError, ValueError for tables that are missing, damaged or do not fit together.
    """
    tables = Tables(folder)
    by_name = {row["name"]: token for token, row in tables.items("scene")}
    if missing := [name for name in scenes or () if name not in by_name]:
        raise ValueError(f"{tables.folder / 'scene.json'}: has no scene {missing[0]}, which the split names")
    names = set(by_name if scenes is None else scenes)
    wanted = {token for name, token in by_name.items() if name in names}
    frames = {row["sample_token"]: row for _, row in tables.items("sample_data") if row["is_key_frame"]}
    annotations: dict[str, list[Row]] = {}
    for _, row in tables.items("sample_annotation"):
        annotations.setdefault(row["sample_token"], []).append(row)
    samples = [(token, row) for token, row in tables.items("sample") if row["scene_token"] in wanted]
    samples.sort(key=lambda sample: (sample[1]["scene_token"], sample[1]["timestamp"]))
    records = []
    for token, _ in samples:
        if token not in frames:
            raise ValueError(
                f"{tables.folder / 'sample_data.json'}: has no {CHANNEL} frame of sample {token}"
            )
        records.append(_record(tables, frames[token], annotations.get(token, ()), sweeps))
    return records


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
