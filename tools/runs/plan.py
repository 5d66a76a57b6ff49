"""Which items of a data set make each update, as a function of (seed, update).

So K processes, and K times as many accumulated steps, see what one process with the joined batch sees, and a
run can be taken up at any update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ..training.seeding import Use


@dataclass(frozen=True, slots=True)
class Item:
    """One item of one update: its place in the epoch's order, and its index in the data set."""

    epoch: int
    place: int
    index: int


class Plan:
    """Epochs in a shuffled order; what does not fill a last update is left out.

    Args:
        size: items in the data set.
        items: of an update, over all processes and accumulated steps.
    Raises: ValueError when an epoch has no whole update.
    """

    def __init__(self, size: int, items: int, seed: int) -> None:
        self.size, self.items, self.seed = size, items, seed
        self.updates = size // items
        if not self.updates:
            raise ValueError(
                f"--batch-size must be so that an update has at most the {size} items of the data set, "
                f"got {items} (batch size x processes x --grad-accum-steps)"
            )
        self.order = lru_cache(maxsize=2)(self.shuffled)

    def shuffled(self, epoch: int) -> list[int]:
        return torch.randperm(self.size, generator=generator(self.seed, Use.SAMPLE, epoch)).tolist()

    def update(self, number: int) -> list[Item]:
        """The items of update ``number``, counted from 0 over all epochs."""
        epoch, within = divmod(number, self.updates)
        places = range(within * self.items, (within + 1) * self.items)
        order = self.order(epoch)
        return [Item(epoch, place, order[place]) for place in places]


def microbatches(items: Sequence[Any], rank: int, world: int, size: int) -> list[Sequence[Any]]:
    """This process's part of an update, ``size`` items for each accumulated step."""
    whole = range(0, len(items), size * world)
    return [items[start + rank * size : start + (rank + 1) * size] for start in whole]


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by whole numbers >= 0."""
    words = np.random.SeedSequence((len(key), *key)).generate_state(2)
    return torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]))
