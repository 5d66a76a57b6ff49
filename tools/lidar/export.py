"""Detections in the files that KITTI's and nuScenes' benchmarks take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...pointcloud.records import Detections
from ..files import write_atomic, write_json


def export(dataset: str, frames: Any, found: Sequence[Detections], place: Path) -> None:
    """KITTI: a folder of NNNNNN.txt; nuScenes: one json. ``found``: one for each frame, in order."""
    {"kitti": export_kitti, "nuscenes": export_nuscenes}[dataset](frames, found, place)


def export_kitti(frames: Any, found: Sequence[Detections], folder: Path) -> None:
    from ...pointcloud.data.kitti_export import kitti_lines
    from ...pointcloud.data.kitti_files import make_camera

    for index, each in enumerate(found):
        record = frames.record(index)
        camera = make_camera(record["calibration"], record["size"])
        text = kitti_lines(each, camera, frames.classes)
        write_atomic(folder / f"{record['name']}.txt", text.encode())


def export_nuscenes(frames: Any, found: Sequence[Detections], file: Path) -> None:
    from ...pointcloud.data.nuscenes_export import submission

    records = [frames.record(index) for index in range(len(found))]
    names = [record["name"] for record in records]
    to_global = {record["name"]: np.array(record["to_global"]) for record in records}
    write_json(file, submission(dict(zip(names, found, strict=True)), to_global, frames.classes))
