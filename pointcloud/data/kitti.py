"""KITTI's 3D object data set, read from its own folder layout.

    ImageSets/{train,val,test}.txt                              names of the frames of a split
    training/{velodyne/*.bin, label_2/*.txt, calib/*.txt, image_2/*.png}
    testing/...                                                 the same without labels, for the split "test"

Source: Geiger et al., CVPR 2012, and the development kit's description of labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..boxes import points_per_box
from ..metrics import KITTI_CLASSES, KittiLabels, kitti_ap, kitti_difficulty
from ..records import Detections, Frame, Labels
from .files import read_points
from .kitti_camera import Camera, boxes_from_labels, picture_boxes
from .kitti_files import (
    PICTURE_SIZE,
    make_camera,
    read_calibration,
    read_labels,
    read_names,
    read_picture_size,
)
from .prepared import FOLDER, Prepared

DONT_CARE = "DontCare"


@dataclass(frozen=True, kw_only=True)
class KittiFrameLabels(KittiLabels):
    """Labels of a frame and the camera through which detections are judged."""

    camera: Camera


class KittiFrames:
    """The frames of a split; constructing it reads the list of their names only.

    Args:
        folder: holds ``ImageSets`` and ``training``.
        split: a list in ``ImageSets``; "test" lies in ``testing`` and has no labels.
        field_of_view: only points that the camera sees, as only they are labelled; False: all of them.
        prepared: where ``linzoo prepare-lidar`` wrote; None: ``linzoo`` in ``folder``.
    A frame's labels are its cars, pedestrians and cyclists. ``info`` has, of these K: ``difficulty``
    (``kitti_difficulty``), ``num_points``, ``picture_boxes`` (K, 4), ``occlusion``, ``truncation``; of the J
    other objects (vans, sitting persons, trucks, ...): ``ignored_boxes`` (J, 7), ``ignored_names``,
    ``ignored_difficulty``; of regions without labels: ``dont_care`` (D, 4) in the picture; ``camera``; and
    ``picture_size_assumed``, True where there is no picture and its size was taken to be 1242 x 375.
    Raises: OSError or ValueError, naming the file, for one that is missing or damaged.
    """

    classes = KITTI_CLASSES
    point_features = 4

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        *,
        field_of_view: bool = True,
        prepared: str | Path | None = None,
    ) -> None:
        folder = Path(folder)
        self.split, self.field_of_view = split, field_of_view
        self.folder, names = split_frames(folder, split)
        settings = {"dataset": "kitti", "split": split, "field_of_view": field_of_view, "names": names}
        self.prepared = Prepared(folder=Path(prepared or folder / FOLDER), split=split, settings=settings)
        self._records = self.prepared.read()
        self.names = names if self._records is None else [record["name"] for record in self._records]

    @property
    def paste_file(self) -> Path | None:
        """The prepared objects, None if there are none."""
        file = self.prepared.paste_file
        return file if self._records is not None and file.is_file() else None

    def __len__(self) -> int:
        return len(self.names)

    def record(self, index: int) -> dict[str, Any]:
        """The facts of a frame as plain values, without its points."""
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in 0 .. {len(self) - 1}, got {index}")
        if self._records is not None:
            return self._records[index]
        name = self.names[index]
        size = read_picture_size(self.folder / "image_2" / f"{name}.png")
        labels = [] if self.split == "test" else read_labels(self.folder / "label_2" / f"{name}.txt")
        return {
            "name": name,
            "size": list(size or PICTURE_SIZE),
            "size_assumed": size is None,
            "calibration": read_calibration(self.folder / "calib" / f"{name}.txt"),
            "labels": labels,
        }

    def prepared_record(self, index: int, frame: Frame) -> dict[str, Any]:
        """The facts to be stored: ``record`` and what was counted in the frame."""
        return {**self.record(index), "num_points": frame.info["num_points"].tolist()}

    def labelled_classes(self, index: int) -> set[int]:
        """Indices of the classes that are labelled in a frame."""
        names = {row["name"] for row in self.record(index)["labels"]}
        return {number for number, name in enumerate(self.classes) if name in names}

    def __getitem__(self, index: int) -> Frame:
        record = self.record(index)
        camera = make_camera(record["calibration"], record["size"])
        points = read_points(self.folder / "velodyne" / f"{record['name']}.bin", self.point_features)
        if self.field_of_view:
            points = points[camera.sees(points)]
        rows = [row for row in record["labels"] if row["name"] in self.classes]
        others = [row for row in record["labels"] if row["name"] not in (*self.classes, DONT_CARE)]
        boxes = lidar_boxes(camera, rows)
        numbers = [self.classes.index(row["name"]) for row in rows]
        regions = [row for row in record["labels"] if row["name"] == DONT_CARE]
        counted = record.get("num_points")
        info = {
            "difficulty": difficulty(rows),
            "num_points": points_per_box(points, boxes) if counted is None else torch.tensor(counted).long(),
            "picture_boxes": columns(rows, "left", "top", "right", "bottom"),
            "occlusion": columns(rows, "occlusion")[:, 0].long(),
            "truncation": columns(rows, "truncation")[:, 0],
            "ignored_boxes": lidar_boxes(camera, others),
            "ignored_names": tuple(row["name"] for row in others),
            "ignored_difficulty": difficulty(others),
            "dont_care": columns(regions, "left", "top", "right", "bottom"),
            "camera": camera,
            "picture_size_assumed": record["size_assumed"],
        }
        labels = Labels(boxes, torch.tensor(numbers, dtype=torch.int64))
        return Frame(points=points, labels=labels, name=record["name"], info=info)

    def metric_labels(self, frame: Frame) -> KittiFrameLabels:
        """What ``score`` must know of a frame."""
        info, classes = frame.info, frame.labels.classes.tolist()
        solid = (info["ignored_boxes"][:, 3:6] > 0).all(1)  # the others overlap nothing
        ignored = [name for name, kept in zip(info["ignored_names"], solid.tolist(), strict=True) if kept]
        return KittiFrameLabels(
            boxes=torch.cat([frame.labels.boxes, info["ignored_boxes"][solid]]),
            names=(*(self.classes[number] for number in classes), *ignored),
            difficulty=torch.cat([info["difficulty"], info["ignored_difficulty"][solid]]),
            camera=info["camera"],
        )

    def score(self, detections: Sequence[Detections], labels: Sequence[KittiFrameLabels]) -> dict[str, float]:
        """AP at 40 recall positions in percent: ``Car_3d_moderate``, ``Car_bev_easy``, ``Car_ahs_hard``, ...

        ``score`` is the mean over classes of the moderate 3D AP, over those that are labelled at all. A
        detection counts at a difficulty if its box, projected into the picture, is high enough.
        """
        heights = [
            picture_heights(one.camera, found.boxes)
            for found, one in zip(detections, labels, strict=True)
        ]  # fmt: skip
        table = kitti_ap(detections, labels, classes=self.classes, heights=heights)
        figures = {
            f"{name}_{metric}_{level}": value
            for name, rows in table.items()
            for metric, levels in rows.items()
            for level, value in levels.items()
        }
        known = [value for name in self.classes if (value := table[name]["3d"]["moderate"]) == value]
        return {"score": sum(known) / len(known) if known else float("nan"), **figures}


def split_frames(folder: Path, split: str) -> tuple[Path, list[str]]:
    """Where the files of a split lie, and the names of its frames.

    Raises: FileNotFoundError; ValueError for a list that is empty or names a frame twice.
    """
    place = folder / ("testing" if split == "test" else "training")
    if not place.is_dir():
        raise FileNotFoundError(f"{folder}: a KITTI folder must hold {place.name}/, there is none")
    return place, read_names(folder / "ImageSets" / f"{split}.txt")


def picture_heights(camera: Camera, boxes: Tensor) -> Tensor:
    """(K,) pixels from top to bottom of each box as the picture shows it; 0 where it does not."""
    rows = picture_boxes(camera, boxes.detach().cpu())
    return rows[:, 3] - rows[:, 1]


def columns(rows: Sequence[Mapping[str, Any]], *names: str) -> Tensor:
    """(K, columns) float32 of label rows."""
    return torch.tensor([[row[name] for name in names] for row in rows]).reshape(len(rows), len(names))


def lidar_boxes(camera: Camera, rows: Sequence[Mapping[str, Any]]) -> Tensor:
    """(K, 7) float32."""
    exact = torch.tensor(
        [[row[name] for name in ("height", "width", "length", "x", "y", "z", "ry")] for row in rows],
        dtype=torch.float64,
    ).reshape(len(rows), 7)
    return boxes_from_labels(camera, exact[:, :3], exact[:, 3:6], exact[:, 6]).float()


def difficulty(rows: Sequence[Mapping[str, Any]]) -> Tensor:
    """(K,) int64."""
    top, bottom, occlusion, truncation = columns(rows, "top", "bottom", "occlusion", "truncation").unbind(1)
    return kitti_difficulty(bottom - top, occlusion, truncation)
