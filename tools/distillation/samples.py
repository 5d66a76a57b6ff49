"""What a distillation reads: latents and conditions of a picture by its index; scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..training.digits import HELD_OUT, SPLIT_SEED, split_digits


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture.

    Args:
        mean, deviation: (C, h, w) of its latents, scaled as the model wants them; deviation None: exact.
        conditions: tensors without a batch axis.
    """

    mean: Tensor
    deviation: Tensor | None
    conditions: Mapping[str, Tensor]


class Samples(Protocol):
    """Args: shape: (C, h, w). absent: conditions of the empty prompt, where there are prompts."""

    shape: tuple[int, int, int]
    absent: Mapping[str, Tensor]

    def __len__(self) -> int: ...
    def read(self, index: int, flipped: bool = False) -> Sample: ...


class Digits:
    """The 1,437 training digits of ``linzoo train --dataset digits``: pixels from -1 to 1, and classes."""

    shape = (1, 8, 8)

    def __init__(self) -> None:
        pixels, labels, learnt, _ = split_digits(HELD_OUT, SPLIT_SEED)
        self.pixels = torch.from_numpy(pixels[learnt]).float().reshape(-1, *self.shape) / 8 - 1
        self.labels = torch.from_numpy(labels[learnt]).long()
        self.absent: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int, flipped: bool = False) -> Sample:
        return Sample(self.pixels[index], None, {"labels": self.labels[index]})
