"""Batches of augmented frames, the same for any number of processes and readers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...pointcloud.boxes.checks import first_unfit
from ...pointcloud.data.augment import AugmentOptions, PasteDatabase, augment
from ...pointcloud.records import Frame, Labels
from ..runs.plan import Item, Plan, microbatches
from ..training.batches import DataError
from ..training.seeding import Use


class Batch(NamedTuple):
    """Frames side by side: points (N_i, F) and labels of each."""

    points: list[Tensor]
    labels: list[Labels]

    def to(self, device: torch.device) -> Batch:
        points = [p.to(device, non_blocking=True) for p in self.points]
        labels = [Labels(*(t.to(device, non_blocking=True) for t in each)) for each in self.labels]
        return Batch(points, labels)


@dataclass(frozen=True, kw_only=True)
class TrainingFrames:
    """A data set's frames, augmented by chance that depends on (seed, epoch, place) alone.

    last_paste, last_augmented: the first epochs without pasting, and without any augmentation.
    """

    frames: Any
    options: AugmentOptions
    paste: PasteDatabase | None
    seed: int
    last_paste: int
    last_augmented: int

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, item: Item) -> Frame:
        """Raises: DataError for a frame that cannot be read."""
        frame = read_frame(self.frames, item.index)
        if item.epoch >= self.last_augmented:
            return frame
        chance = np.random.default_rng([self.seed, Use.SAMPLE, item.epoch, item.place])
        paste = self.paste if item.epoch < self.last_paste else None
        return augment(frame, self.options, chance, paste)


def read_frame(frames: Any, index: int) -> Frame:
    """Raises: DataError with what the data set says of the frame."""
    try:
        return frames[index]
    except (ValueError, OSError) as error:
        raise DataError(f"frame {index} cannot be read: {error}") from error


def scored_labels(frames: Any, frame: Frame) -> Any:
    """What the data set's metric must know of a frame.

    Raises: DataError for an object without an extent or a place, which no metric takes: before the detector
        runs, not when all frames are done.
    """
    labels = frames.metric_labels(frame)
    boxes = labels.boxes[:, :7]
    row = first_unfit(boxes)
    if row is not None:
        values = [round(value, 3) for value in boxes[row].tolist()]
        raise DataError(
            f"frame {frame.name} cannot be scored: object {row} must have finite values and sizes above 0, "
            f"got {values}"
        )
    return labels


class UpdateBatches:
    """The item lists of this process, a list a step, from update ``first`` to ``last``: a batch sampler."""

    def __init__(self, plan: Plan, first: int, last: int, rank: int, world: int, size: int) -> None:
        self.plan, self.updates, self.place = plan, range(first, last), (rank, world, size)

    def __iter__(self) -> Iterator[Sequence[Item]]:
        for update in self.updates:
            yield from microbatches(self.plan.update(update), *self.place)

    def __len__(self) -> int:
        rank, world, size = self.place
        return len(self.updates) * len(microbatches(range(self.plan.items), rank, world, size))


def collate(frames: Sequence[Frame]) -> Batch:
    return Batch([frame.points for frame in frames], [frame.labels for frame in frames])
