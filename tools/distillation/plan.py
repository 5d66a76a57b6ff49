"""Which pictures make each update, and everything random about them, as functions of (seed, epoch, place).

So K processes, and K times as many accumulated steps, see what one process with the joined batch sees, and a
run can be taken up at any update.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..training.seeding import Use

CLEAN, NOISE, PLACE, CHOICE = range(4)  # what numbers of a picture are for


@dataclass(frozen=True, slots=True)
class Item:
    """One picture of one update: its place in the epoch's order, and its index in the data set."""

    epoch: int
    place: int
    index: int


class Plan:
    """Epochs in a shuffled order; what does not fill a last update is left out.

    Args:
        size: pictures in the data set.
        pictures: of an update, over all processes and accumulated steps.
    Raises: ValueError when an epoch has no whole update.
    """

    def __init__(self, size: int, pictures: int, seed: int) -> None:
        self.size, self.pictures, self.seed = size, pictures, seed
        self.updates = size // pictures
        if not self.updates:
            raise ValueError(
                f"--batch-size must be so that an update has at most the {size} pictures of the data set, "
                f"got {pictures} (batch size x processes x --grad-accum-steps)"
            )
        self.order = lru_cache(maxsize=2)(self.shuffled)

    def shuffled(self, epoch: int) -> list[int]:
        return torch.randperm(self.size, generator=generator(self.seed, Use.SAMPLE, epoch)).tolist()

    def update(self, number: int) -> list[Item]:
        """The pictures of update ``number``, counted from 0 over all epochs."""
        epoch, within = divmod(number, self.updates)
        places = range(within * self.pictures, (within + 1) * self.pictures)
        order = self.order(epoch)
        return [Item(epoch, place, order[place]) for place in places]


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by whole numbers >= 0."""
    words = np.random.SeedSequence((len(key), *key)).generate_state(2)
    return torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]))


@dataclass(frozen=True, slots=True)
class Draw:
    """The random numbers of one picture: latents' noise (C, h, w), noise (C, h, w), three uniform numbers."""

    clean: Tensor
    noise: Tensor
    place: float
    flip: float
    drop: float


def draw(seed: int, item: Item, shape: tuple[int, ...]) -> Draw:
    def own(use: int) -> torch.Generator:
        return generator(seed, Use.MIX, item.epoch, item.place, use)

    flip, drop = torch.rand(2, generator=own(CHOICE)).tolist()
    return Draw(
        clean=torch.randn(shape, generator=own(CLEAN)),
        noise=torch.randn(shape, generator=own(NOISE)),
        place=torch.rand((), generator=own(PLACE), dtype=torch.float64).item(),
        flip=flip,
        drop=drop,
    )
