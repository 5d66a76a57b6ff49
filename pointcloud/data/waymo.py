"""Waymo Open in the per-sequence layout that OpenPCDet's converter writes.

    ImageSets/{train,val}.txt                                   names of sequences, a line each
    waymo_processed_data*/<sequence>/{0000.npy, ...}            float32 rows, a file a frame
    waymo_processed_data*/<sequence>/<sequence>.pkl             a list of one dictionary a frame

Assumed, as Waymo's own library does not install beside this torch and no converted file was at hand:
a row is x, y, z, intensity, elongation, no-label-zone flag (-1: outside such zones; points with another value
are dropped; files of five columns have no flag). A dictionary has ``point_cloud`` with ``sample_idx``, the
number of the frame's file, and, where labelled, ``annos`` with ``name``, ``gt_boxes_lidar`` (K, 7 or 9) and
``num_points_in_gt``. A line in a list may end in ``.tfrecord``. The folder of sequences may also be the data
folder itself. Source: Sun et al., CVPR 2020, arXiv 1912.04838.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..metrics import CountedLabels, unofficial_waymo_ap
from ..records import Detections, Frame, Labels
from .files import first_repeated, nearest_name, read_points, read_text
from .plain_pickle import read_plain_pickle
from .prepared import FOLDER, Prepared, RecordedFrames

WAYMO_CLASSES = ("Vehicle", "Pedestrian", "Cyclist")
OVERLAPS = {"Vehicle": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
OUTSIDE_ZONES = -1.0
ALL = "all"


class WaymoFrames(RecordedFrames):
    """The frames of a split's sequences; constructing it reads the sequences' dictionaries, no points.

    Args:
        folder: holds ``ImageSets`` and the folder of sequences.
        split: a list in ``ImageSets``; "all": every sequence that is there.
        prepared: where ``linzoo prepare-lidar`` wrote; None: ``linzoo`` in ``folder``.
    Points are x, y, z, intensity, elongation, as recorded: the detectors pass the last two through tanh.
    Labels are the vehicles, pedestrians and cyclists that hold a point. ``info``: ``num_points`` (K,);
    ``all_boxes`` (A, 7), ``all_classes``, ``all_num_points``, also of what no point hit; ``ignored_boxes``
    (J, 7), signs and the like.
    Raises: OSError or ValueError, naming the file, for one that is missing or damaged.
    """

    classes = WAYMO_CLASSES
    point_features = 5

    def __init__(
        self, folder: str | Path, split: str = "train", *, prepared: str | Path | None = None
    ) -> None:
        folder = Path(folder)
        self.split = split
        self.folder = sequence_folder(folder)
        sequences = split_sequences(folder, self.folder, split)
        settings = {"dataset": "waymo", "split": split, "sequences": sequences}
        self.prepared = Prepared(folder=Path(prepared or folder / FOLDER), split=split, settings=settings)
        self.take_records(lambda: [r for name in sequences for r in read_sequence(self.folder / name)])

    def labelled_classes(self, index: int) -> set[int]:
        """Indices of the classes that are labelled in a frame."""
        record = self.record(index)
        counted = zip(record["names"], record["num_points"], strict=True)
        held = {name for name, points in counted if points > 0}
        return {number for number, name in enumerate(self.classes) if name in held}

    def __getitem__(self, index: int) -> Frame:
        record = self.record(index)
        rows = read_points(self.folder / record["file"])
        if rows.shape[1] not in (5, 6):
            raise ValueError(
                f"{self.folder / record['file']}: must hold 5 or 6 values a point, got {rows.shape[1]}"
            )
        if rows.shape[1] == 6:
            rows = rows[rows[:, 5] == OUTSIDE_ZONES]
        boxes = torch.tensor(record["boxes"], dtype=torch.float32).reshape(-1, 7)
        counts = torch.tensor(record["num_points"], dtype=torch.int64)
        known = torch.tensor([name in self.classes for name in record["names"]], dtype=torch.bool)
        numbers = torch.tensor(
            [self.classes.index(name) for name in record["names"] if name in self.classes], dtype=torch.int64
        )
        held = counts[known] > 0
        info = {
            "num_points": counts[known][held],
            "all_boxes": boxes[known],
            "all_classes": numbers,
            "all_num_points": counts[known],
            "ignored_boxes": boxes[~known],
        }
        labels = Labels(boxes[known][held], numbers[held])
        return Frame(
            points=rows[:, :5].contiguous(),
            labels=labels,
            name=record["file"].removesuffix(".npy"),
            info=info,
        )

    def metric_labels(self, frame: Frame) -> CountedLabels:
        """What ``score`` must know of a frame."""
        info = frame.info
        return CountedLabels(
            boxes=info["all_boxes"], classes=info["all_classes"], num_points=info["all_num_points"]
        )

    def score(self, detections: Sequence[Detections], labels: Sequence[CountedLabels]) -> dict[str, float]:
        """UNOFFICIAL: ``Vehicle_L2_APH`` and so on in percent; ``score`` is the mean L2 APH of what is
        labelled. See ``unofficial_waymo_ap`` for where it differs from the benchmark's program.
        """
        table = unofficial_waymo_ap(detections, labels, classes=self.classes, iou=OVERLAPS)
        figures = {
            f"{name}_{level}_{figure}": value
            for name, levels in table.items()
            for level, row in levels.items()
            for figure, value in row.items()
        }
        known = [value for name in self.classes if (value := table[name]["L2"]["APH"]) == value]
        return {"score": sum(known) / len(known) if known else float("nan"), **figures}


def sequence_folder(folder: Path) -> Path:
    """The last ``waymo_processed_data*`` by name, else ``folder`` itself."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    found = sorted(path for path in folder.glob("waymo_processed_data*") if path.is_dir())
    return found[-1] if found else folder


def split_sequences(folder: Path, sequences: Path, split: str) -> list[str]:
    """Names of the folders of a split. Raises: ValueError or OSError when they cannot be told or are gone."""
    if split == ALL:
        names = sorted(path.parent.name for path in sequences.glob("*/*.pkl"))
        if not names:
            raise ValueError(f"{sequences}: must hold folders of sequences with a .pkl, there are none")
        return names
    path = folder / "ImageSets" / f"{split}.txt"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such list of sequences; split 'all' takes every one")
    names = [name.removesuffix(".tfrecord") for name in read_text(path).split()]
    if not names:
        raise ValueError(f"{path}: must name at least one sequence, got none")
    if twice := first_repeated(names):
        raise ValueError(f"{path}: must name each sequence once, got {twice} again")
    if missing := [name for name in names if not (sequences / name).is_dir()]:
        raise FileNotFoundError(f"{sequences / missing[0]}: there is no such sequence, which {path} names")
    return names


def read_sequence(folder: Path) -> list[dict[str, Any]]:
    """One record a frame: ``file``, ``names``, ``boxes`` (7 values each), ``num_points``."""
    path = folder / f"{folder.name}.pkl"
    rows = read_plain_pickle(path)
    if not isinstance(rows, list):
        raise ValueError(f"{path}: must be a list of one dictionary a frame, got {type(rows).__name__}")
    records = []
    for number, row in enumerate(rows):
        try:
            records.append(_record(folder.name, row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{path}: frame {number} does not have the layout that is read: {error!r}"
            ) from error
    files = [record["file"] for record in records]
    if twice := first_repeated(files):
        raise ValueError(f"{path}: must have each frame's sample_idx once, two frames are {twice}")
    return records


def _record(sequence: str, row: Mapping[str, Any]) -> dict[str, Any]:
    number = int(row["point_cloud"]["sample_idx"])
    annotations = row.get("annos") or {"name": [], "gt_boxes_lidar": [], "num_points_in_gt": []}
    names = [str(name) for name in annotations["name"]]
    for name in set(names):
        if meant := nearest_name(name, WAYMO_CLASSES):
            raise ValueError(f"must name the class {meant}, got {name!r}")
    boxes = np.asarray(annotations["gt_boxes_lidar"], dtype=np.float64)
    boxes = boxes.reshape(len(names), -1)[:, :7] if names else boxes.reshape(0, 7)
    counts = [int(count) for count in annotations["num_points_in_gt"]]
    if boxes.shape[1] != 7 or len(counts) != len(names) or not np.isfinite(boxes).all():
        raise ValueError(
            f"{len(names)} names, gt_boxes_lidar {boxes.shape} (7 or more finite values each), "
            f"{len(counts)} num_points_in_gt"
        )
    file = f"{sequence}/{number:04d}.npy"
    return {"name": file.removesuffix(".npy"), "file": file, "names": names, "boxes": boxes.tolist(),
            "num_points": counts}  # fmt: skip
