"""scikit-learn's digits as a diffusion model sees them: (n, 1, 8, 8) from -1 (paper) to 1 (ink)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..training.digits import HELD_OUT, SPLIT_SEED, split_digits

CLASSES = 10
NO_CLASS = 10  # the label that stands for "any digit"


@dataclass(frozen=True, slots=True)
class Digits:
    """Pictures and classes; nothing is trained on the held-out ones."""

    train: Tensor
    train_labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor


def load_digits() -> Digits:
    """1,437 digits to train on and 360 held out, every class in the same proportion.

    Raises: ImportError without scikit-learn.
    """
    pixels, labels, train, held_out = split_digits(HELD_OUT, SPLIT_SEED)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 8 - 1
    labels = torch.from_numpy(labels)
    return Digits(images[train], labels[train], images[held_out], labels[held_out])


def seeded(*numbers: int) -> torch.Generator:
    """A generator that follows from the numbers alone, each below 2^16: seed, purpose, step."""
    state = 0
    for number in numbers:
        state = state * 65536 + number
    return torch.Generator().manual_seed(state)
