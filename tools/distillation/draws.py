"""Everything random about a picture of an update, as a function of (seed, epoch, place)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..runs.plan import Item, generator
from ..training.seeding import Use

CLEAN, NOISE, PLACE, CHOICE = range(4)  # what numbers of a picture are for


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
