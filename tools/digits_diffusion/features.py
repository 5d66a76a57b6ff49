"""The fixed space in which sets of digits are compared: features of a small classifier trained on digits.

32 numbers a picture, what the last layer reads. Trained on the training digits, moved by up to a pixel
and with a little noise; the weights are committed, so that distances of different runs can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..demo.context import Progress, one_thread
from ..files import write_atomic
from .data import CLASSES, Digits, load_digits, seeded

WEIGHTS = Path(__file__).parents[1] / "weights" / "digits_features.safetensors"
PURPOSE = 2  # of its random numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSettings:
    steps: int = 1200
    batch: int = 64
    lr: float = 2e-3
    noise: float = 0.1  # added to pictures in [-1, 1]
    seed: int = 0


class DigitFeatures(nn.Module):
    """(B, 1, 8, 8) in [-1, 1] -> (B, 32); ``logits`` gives the classes."""

    num_features = 32

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.SiLU(),
            nn.Conv2d(32, 48, 3, padding=1, stride=2), nn.SiLU(),
            nn.Conv2d(48, 64, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(256, self.num_features), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Linear(self.num_features, CLASSES)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.body(pictures)

    def logits(self, pictures: Tensor) -> Tensor:
        return self.head(self.body(pictures))


def train_features(settings: FeatureSettings) -> tuple[DigitFeatures, float]:
    """The classifier and its share of right answers on the held-out digits."""
    data = load_digits()
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = DigitFeatures()
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
        bar = Progress("digits classifier", settings.steps)
        for step in range(settings.steps):
            pictures, labels = moved_batch(data, settings, step)
            loss = F.cross_entropy(model.logits(pictures), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.advance()
        right = share_right(model.eval(), data.held_out, data.held_out_labels)
        bar.close(f"{100 * right:.1f} % of the held-out digits right")
    return model, right


def moved_batch(data: Digits, settings: FeatureSettings, step: int) -> tuple[Tensor, Tensor]:
    chance = seeded(settings.seed, PURPOSE, step)
    chosen = torch.randint(len(data.train), (settings.batch,), generator=chance)
    down, right = torch.randint(3, (2, settings.batch), generator=chance)
    padded = F.pad(data.train[chosen], (1, 1, 1, 1), value=-1.0)
    rows, columns = down[:, None] + torch.arange(8), right[:, None] + torch.arange(8)
    pictures = padded[torch.arange(settings.batch)[:, None, None], 0, rows[:, :, None], columns[:, None, :]]
    noise = torch.randn(pictures.shape, generator=chance)
    return (pictures + settings.noise * noise)[:, None], data.train_labels[chosen]


@torch.inference_mode()
def share_right(model: DigitFeatures, pictures: Tensor, labels: Tensor) -> float:
    return (model.logits(pictures).argmax(1) == labels).double().mean().item()


def save_features(model: DigitFeatures, path: Path) -> None:
    from safetensors.torch import save

    write_atomic(path, save(model.state_dict()))


def load_features(path: Path = WEIGHTS) -> DigitFeatures:
    """The committed classifier, frozen, in float64."""
    from safetensors.torch import load_file

    model = DigitFeatures().double()
    model.load_state_dict(load_file(path))
    return model.requires_grad_(False).eval()
