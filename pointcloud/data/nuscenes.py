"""nuScenes' detection task, read from its own folders without its devkit.

    v1.0-*/*.json                       the tables
    samples/LIDAR_TOP, sweeps/LIDAR_TOP the .pcd.bin files that the tables name
    splits.json or <split>.txt          the names of a split's scenes, here or in the folder of the tables

The official lists of scenes are part of the devkit, not of the data: ``splits.json`` is
``{"train": ["scene-0001", ...], "val": [...], ...}`` and ``<split>.txt`` one name a line.
Source: Caesar et al., CVPR 2020, arXiv 1903.11027.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..boxes import inside_boxes
from ..metrics import NUSCENES_CLASSES, NuScenesLabels, nuscenes_metrics
from ..records import Detections, Frame, Labels
from .files import read_points, read_text
from .nuscenes_attributes import usual_attributes
from .nuscenes_tables import read_records
from .poses import move_boxes, move_points
from .prepared import FOLDER, Prepared, RecordedFrames

CLOSE = 1.0  # metres in x and in y: points of the vehicle itself
ALL = "all"
RACK_CLASSES = ("bicycle", "motorcycle")


@dataclass(frozen=True, kw_only=True)
class NuScenesFrameLabels(NuScenesLabels):
    """Labels with the vehicle at the origin, and what moves detections there.

    to_ego: (4, 4), from the LiDAR to the vehicle.  racks: (R, 7) bicycle racks in the LiDAR's frame.
    """

    to_ego: np.ndarray
    racks: Tensor


class NuScenesFrames(RecordedFrames):
    """The key frames of a split's scenes; constructing it reads tables, no points.

    Args:
        folder: holds ``version``, ``samples`` and ``sweeps``.
        version: the folder of the tables, ``v1.0-trainval`` or ``v1.0-mini``.
        split: a list of scenes in ``splits.json`` or ``<split>.txt``; "all": every scene of the tables.
        sweeps: how many are merged into a frame, the key frame among them; fewer at a scene's begin.
        prepared: where ``linzoo prepare-lidar`` wrote; None: ``linzoo`` in ``folder``.
    Points are x, y, z, intensity (0 .. 255) and the time lag in seconds, 0 in the key frame; all in the
    LiDAR's frame of the key frame (x to the right, y ahead). The ring number is dropped. Points of earlier
    sweeps within a square of 1 m around the sensor are left out. Labels are the objects of the ten classes
    that hold a LiDAR point; boxes (K, 9), the velocity 0 where it is not known. ``info``: ``num_points``
    (K,), of the key frame; ``all_boxes`` (A, 9) with NaN for unknown velocities, ``all_classes``,
    ``all_attributes``, ``all_num_points`` (LiDAR and radar), also of what no LiDAR point hit; ``racks``
    (R, 7), ``to_ego`` and ``to_global`` (4, 4).
    Raises: OSError or ValueError, naming the file, for one that is missing or damaged.
    """

    classes = NUSCENES_CLASSES
    point_features = 5

    def __init__(
        self,
        folder: str | Path,
        version: str = "v1.0-trainval",
        split: str = "train",
        *,
        sweeps: int = 1,
        prepared: str | Path | None = None,
    ) -> None:
        if sweeps < 1:
            raise ValueError(f"sweeps must be at least 1, the key frame, got {sweeps}")
        self.folder, self.version, self.split, self.sweeps = Path(folder), version, split, sweeps
        tables, scenes = self.folder / version, split_scenes(self.folder, version, split)
        settings = {
            "dataset": "nuscenes", "version": version, "split": split, "sweeps": sweeps, "scenes": scenes,
        }  # fmt: skip
        self.prepared = Prepared(
            folder=Path(prepared or self.folder / FOLDER),
            split=f"{version}_{split}_{sweeps}",
            settings=settings,
        )
        self.take_records(lambda: read_records(tables, scenes, sweeps))

    def labelled_classes(self, index: int) -> set[int]:
        """Indices of the classes that are labelled in a frame."""
        record = self.record(index)
        counted = zip(record["classes"], record["lidar_points"], strict=True)
        return {number for number, points in counted if points > 0}

    def __getitem__(self, index: int) -> Frame:
        record = self.record(index)
        boxes = as_rows(record["boxes"], 9)
        classes, attributes, lidar, radar = (
            torch.tensor(record[name], dtype=torch.int64)
            for name in ("classes", "attributes", "lidar_points", "radar_points")
        )
        kept = lidar > 0
        labels = Labels(boxes[kept], classes[kept])
        labels.boxes[:, 7:].nan_to_num_(nan=0.0)
        info = {
            "num_points": lidar[kept],
            "all_boxes": boxes,
            "all_classes": classes,
            "all_attributes": attributes,
            "all_num_points": lidar + radar,
            "racks": as_rows(record["racks"], 7),
            "to_ego": np.array(record["to_ego"]),
            "to_global": np.array(record["to_global"]),
        }
        return Frame(points=self._points(record), labels=labels, name=record["name"], info=info)

    def _points(self, record: Mapping[str, Any]) -> Tensor:
        parts = [_with_lag(read_points(self.folder / record["file"], 5), 0.0)]
        for sweep in record["sweeps"]:
            points = read_points(self.folder / sweep["file"], 5)
            points = points[(points[:, :2].abs() >= CLOSE).any(1)]
            parts.append(_with_lag(move_points(points, np.array(sweep["matrix"])), sweep["time_lag"]))
        return torch.cat(parts)

    def metric_labels(self, frame: Frame) -> NuScenesFrameLabels:
        """What ``score`` must know of a frame; bicycles and motorcycles inside racks are left out."""
        info = frame.info
        boxes = info["all_boxes"]
        kept = outside_racks(boxes, info["all_classes"], info["racks"])
        return NuScenesFrameLabels(
            boxes=move_boxes(boxes[kept], info["to_ego"]),
            classes=info["all_classes"][kept],
            attributes=info["all_attributes"][kept],
            num_points=info["all_num_points"][kept],
            to_ego=info["to_ego"],
            racks=info["racks"],
        )

    def score(
        self, detections: Sequence[Detections], labels: Sequence[NuScenesFrameLabels]
    ) -> dict[str, float]:
        """``NDS`` (also ``score``), ``mAP``, ``ATE`` ... ``AAE``, ``<class>_AP``, as shares, not percent.

        Detections are in the LiDAR's frame and get attributes by the usual rule (``usual_attributes``).
        """
        moved = [_judged(found, one) for found, one in zip(detections, labels, strict=True)]
        attributes = [usual_attributes(found, self.classes) for found in moved]
        table = nuscenes_metrics(moved, labels, classes=self.classes, attributes=attributes)
        figures = {"score": table["NDS"], "NDS": table["NDS"], "mAP": table["mAP"], **table["errors"]}
        return figures | {f"{name}_AP": row["AP"] for name, row in table["classes"].items()}


def split_scenes(folder: Path, version: str, split: str) -> list[str] | None:
    """The names of a split's scenes; None, for every scene, if ``split`` is "all".

    Raises: FileNotFoundError without the folder of tables; ValueError when nothing says which scenes are
        meant, or a list is damaged or empty.
    """
    if not (folder / version).is_dir():
        others = ", ".join(sorted(f"{path.parent.name}/" for path in folder.glob("*/sample.json")))
        raise FileNotFoundError(
            f"{folder}: must hold the folder of tables {version}/, there is {others or 'none'}"
        )
    if split == ALL:
        return None
    for place in (folder, folder / version):
        names = None
        if (place / f"{split}.txt").is_file():
            names = read_text(place / f"{split}.txt").split()
        elif (place / "splits.json").is_file():
            try:
                names = json.loads((place / "splits.json").read_text(encoding="utf-8")).get(split)
            except (ValueError, AttributeError) as error:
                raise ValueError(
                    f"{place / 'splits.json'}: must be json {{split: [scene names]}} ({error})"
                ) from error
        if names is not None:
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError(
                    f"{place / 'splits.json'}: must be json {{split: [scene names]}}, {split!r} is "
                    f"{names!r:.80}"
                )
            if not names:
                raise ValueError(f"{place}: the list of scenes of split {split!r} is empty")
            return names
    raise ValueError(
        f"{folder}: splits.json or {split}.txt must say which scenes are split {split!r}, neither does; "
        "split 'all' takes every scene"
    )


def _with_lag(points: Tensor, lag: float) -> Tensor:
    """x, y, z, intensity, time lag."""
    return torch.cat((points[:, :4], points.new_full((len(points), 1), lag)), 1)


def as_rows(rows: Sequence[Sequence[float | None]], width: int) -> Tensor:
    """(K, width) float32, NaN for None."""
    values = np.array(rows, dtype=np.float64).reshape(len(rows), width)  # None becomes NaN
    return torch.from_numpy(values.astype(np.float32))


def outside_racks(boxes: Tensor, classes: Tensor, racks: Tensor) -> Tensor:
    """(K,) bool, False for a bicycle or motorcycle whose centre lies in a rack."""
    numbers = torch.tensor([NUSCENES_CLASSES.index(name) for name in RACK_CLASSES])
    return ~(torch.isin(classes, numbers) & inside_boxes(boxes[:, :3], racks.to(boxes)).any(1))


def _judged(found: Detections, labels: NuScenesFrameLabels) -> Detections:
    """Detections outside racks, with the vehicle at the origin."""
    found = Detections(*(part.detach().cpu() for part in found))
    kept = outside_racks(found.boxes, found.classes, labels.racks)
    boxes, scores, classes = (part[kept] for part in found)
    return Detections(move_boxes(boxes, labels.to_ego), scores, classes)
