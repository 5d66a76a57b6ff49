"""Objects cut out of labelled frames, to be pasted into others ("ground-truth sampling").

An object keeps the place, heading and height that it had in its own frame. The ground of the frame that it
is pasted into is not looked at: where that lies higher or lower, the object sinks in or floats.
Source: SECOND, Sensors 18(10), 2018, section 3.4.
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

from ...kernels.errors import ShapeError
from ..boxes import inside_boxes, overlaps_bev, points_in_boxes
from ..records import Frame, Labels

FORMAT = 1
ROWS = 2**15  # points looked at together


@dataclass(frozen=True, kw_only=True)
class PasteDatabase:
    """M objects.

    class_names: what ``classes`` indexes.
    points: (N, F) float32, of all objects, one after the other.  offsets: (M + 1,) int64, where each begins.
    boxes: (M, 7 or 9) float32.  classes: (M,) int64.
    """

    class_names: tuple[str, ...]
    points: Tensor
    offsets: Tensor
    boxes: Tensor
    classes: Tensor

    def __post_init__(self) -> None:
        if len(self.offsets) != len(self.boxes) + 1 or len(self.classes) != len(self.boxes):
            raise ShapeError(
                f"PasteDatabase: offsets and classes must fit the {len(self.boxes)} boxes, got "
                f"{len(self.offsets)} and {len(self.classes)}"
            )
        if int(self.offsets[-1]) != len(self.points):
            raise ShapeError(
                f"PasteDatabase: offsets must end at the {len(self.points)} points, got {self.offsets[-1]}"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def of(cls, frames: Any, *, min_points: int = 5) -> PasteDatabase:
        """All objects of a data set with at least ``min_points`` points.

        A data set that was prepared has its file of objects (its ``paste_file``) read; from any other, every
        frame is read.
        """
        file = getattr(frames, "paste_file", None)
        if file is not None:
            stored = cls.load(file)
            if stored.class_names == tuple(frames.classes) and file_min_points(file) <= min_points:
                return stored.at_least(min_points)
        parts = [cls.of_frame(frames[i], frames.classes, min_points=min_points) for i in range(len(frames))]
        return cls.joined(parts, frames.classes, frames.point_features)

    @classmethod
    def of_frame(cls, frame: Frame, class_names: Sequence[str], *, min_points: int = 5) -> PasteDatabase:
        """The objects of one frame. A point in two boxes belongs to both."""
        parts = frame.points.split(ROWS)  # bounds the memory
        inside = torch.cat([inside_boxes(part, frame.labels.boxes) for part in parts])
        counts = inside.sum(0)
        kept = counts >= min_points
        rows = [frame.points[column] for column in inside.T[kept]]
        return cls(
            class_names=tuple(class_names),
            points=torch.cat([frame.points[:0], *rows]),
            offsets=torch.nn.functional.pad(counts[kept].cumsum(0), (1, 0)),
            boxes=frame.labels.boxes[kept],
            classes=frame.labels.classes[kept],
        )

    @classmethod
    def joined(
        cls, parts: Sequence[PasteDatabase], class_names: Sequence[str], point_features: int
    ) -> PasteDatabase:
        """The objects of all ``parts``, in order; none of them need hold any."""
        parts = [part for part in parts if len(part)]
        starts = np.cumsum([0, *(len(part.points) for part in parts)])
        moved = [part.offsets[1:] + int(start) for part, start in zip(parts, starts[:-1], strict=True)]
        return cls(
            class_names=tuple(class_names),
            points=torch.cat([p.points for p in parts]) if parts else torch.zeros(0, point_features),
            offsets=torch.cat([torch.zeros(1, dtype=torch.int64), *moved]),
            boxes=torch.cat([p.boxes for p in parts]) if parts else torch.zeros(0, 7),
            classes=torch.cat([torch.zeros(0, dtype=torch.int64), *(p.classes for p in parts)]),
        )

    def object_points(self, index: int) -> Tensor:
        """The points (n, F) of one object, where it stood."""
        return self.points[int(self.offsets[index]) : int(self.offsets[index + 1])]

    def at_least(self, min_points: int) -> PasteDatabase:
        """Without the objects that have fewer points."""
        return self.chosen(self.offsets.diff() >= min_points)

    def chosen(self, kept: Tensor) -> PasteDatabase:
        """The objects where ``kept`` (M,) is True."""
        counts = self.offsets.diff()
        if bool(kept.all()):
            return self
        return PasteDatabase(
            class_names=self.class_names,
            points=self.points[kept.repeat_interleave(counts)],
            offsets=torch.nn.functional.pad(counts[kept].cumsum(0), (1, 0)),
            boxes=self.boxes[kept],
            classes=self.classes[kept],
        )

    def to_bytes(self, min_points: int) -> bytes:
        """The content of a file for ``load``: safetensors, with names and settings as its metadata."""
        from safetensors.torch import save

        names = ("points", "offsets", "boxes", "classes")
        facts = {"format": FORMAT, "classes": self.class_names, "min_points": min_points}
        tensors = {name: getattr(self, name).contiguous() for name in names}
        return save(tensors, {"paste": json.dumps(facts)})

    @classmethod
    def load(cls, path: str | Path) -> PasteDatabase:
        """Raises: FileNotFoundError; ValueError for a file that is damaged or holds something else."""
        from safetensors import SafetensorError, safe_open

        facts = _facts(path)
        try:
            with safe_open(str(path), "pt") as file:
                tensors = {name: file.get_tensor(name) for name in ("points", "offsets", "boxes", "classes")}
        except SafetensorError as error:
            raise ValueError(f"{path}: is damaged: {error}") from error
        return cls(class_names=tuple(facts["classes"]), **tensors)


def _facts(path: str | Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: is cut short or no safetensors file: {error}") from error
    try:
        facts = json.loads(metadata.get("paste", "{}"))
        found = facts.get("format")
    except (ValueError, AttributeError):
        found = metadata["paste"][:40]
    if found != FORMAT:
        raise ValueError(f"{path}: must be a paste database of format {FORMAT}, got {found}")
    return facts


def file_min_points(path: str | Path) -> int:
    """The fewest points that an object of a stored database may have."""
    return int(_facts(path)["min_points"])


def paste_objects(
    frame: Frame, database: PasteDatabase, counts: Mapping[str, int], chance: np.random.Generator
) -> tuple[Tensor, Labels]:
    """Points and labels of a frame that is filled up to ``counts`` objects of each class.

    As many objects as a class lacks are drawn; one that touches, from above, a box that is there (also those
    in ``info["ignored_boxes"]``, (J, 7)) or was pasted before it is left out, and none is drawn in its
    place. The frame's own points inside the pasted boxes go.
    Raises: ValueError for a class that the database does not know; ShapeError for other values a point.
    """
    points, labels = frame.points, frame.labels
    unknown = [name for name in counts if name not in database.class_names]
    if unknown:
        raise ValueError(f"paste must name classes of {', '.join(database.class_names)}, got {unknown[0]}")
    if len(database) == 0:
        return points, labels
    if (database.points.shape[1], database.boxes.shape[1]) != (points.shape[1], labels.boxes.shape[1]):
        raise ShapeError(
            f"paste: a frame has {points.shape[1]} values a point and {labels.boxes.shape[1]} a box, the "
            f"database {database.points.shape[1]} and {database.boxes.shape[1]}"
        )
    drawn = _draw(database, labels, counts, chance)
    kept = _without_overlaps(database.boxes[drawn], _obstacles(frame))
    chosen = [drawn[i] for i in kept]
    if not chosen:
        return points, labels
    boxes = database.boxes[chosen]
    rest = points[points_in_boxes(points, boxes) < 0]
    pasted = [database.object_points(i).to(points) for i in chosen]
    return torch.cat([rest, *pasted]), Labels(
        torch.cat([labels.boxes, boxes.to(labels.boxes)]),
        torch.cat([labels.classes, database.classes[chosen]]),
    )


def _draw(
    database: PasteDatabase, labels: Labels, counts: Mapping[str, int], chance: np.random.Generator
) -> list[int]:
    """Indices of the objects drawn, class by class, each at most once."""
    drawn: list[int] = []
    for name, count in counts.items():
        index = database.class_names.index(name)
        held = (database.classes == index).numpy().nonzero()[0]
        lacking = count - int((labels.classes == index).sum())
        if lacking > 0 and len(held):
            drawn += chance.choice(held, min(lacking, len(held)), replace=False).tolist()
    return drawn


def _obstacles(frame: Frame) -> Tensor:
    """Boxes (K + J, 7) that nothing may touch; those without extent have no place."""
    ignored = frame.info.get("ignored_boxes", frame.labels.boxes[:0])
    boxes = torch.cat([frame.labels.boxes[:, :7], ignored[:, :7].to(frame.labels.boxes)])
    return boxes[(boxes[:, 3:6] > 0).all(1)]


def _without_overlaps(boxes: Tensor, obstacles: Tensor) -> list[int]:
    """Rows of ``boxes`` that touch no obstacle and none of the rows kept before."""
    touches = (overlaps_bev(boxes[:, :7], torch.cat([obstacles, boxes[:, :7]])) > 0).numpy()
    kept: list[int] = []
    for row in range(len(boxes)):
        others = touches[row, len(obstacles) :][kept]
        if not touches[row, : len(obstacles)].any() and not others.any():
            kept.append(row)
    return kept
