"""How good a student is: a Fréchet distance between sets of pictures, and its error against the teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..extras import need
from .data import Digits, seeded
from .features import DigitFeatures

PURPOSE = 3  # of its random numbers
TIMESTEPS = 1000


def frechet_distance(features: DigitFeatures, reference: Tensor, pictures: Tensor) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^1/2) of two sets' features, in float64.

    Args:
        features: in float64.
        reference, pictures: (n, 1, 8, 8) in [-1, 1], n >= 2, not of one size.
    Raises: ImportError without torchmetrics.
    """
    fid = need("torchmetrics.image.fid", "data").FrechetInceptionDistance(feature=features)
    with torch.inference_mode():
        fid.update(reference.double().clamp(-1, 1), real=True)
        fid.update(pictures.double().clamp(-1, 1), real=False)
        return fid.compute().item()


@dataclass(frozen=True, slots=True)
class Noisy:
    """Held-out digits with noise, every timestep equally often, and what the teacher says of them."""

    pictures: Tensor
    labels: Tensor
    t: Tensor
    noise: Tensor
    teacher: Tensor


def noisy_digits(teacher: nn.Module, alphas: Tensor, data: Digits, rounds: int) -> Noisy:
    """``rounds`` digits for each of the 1,000 timesteps.

    Args:
        alphas: (1000,) share of the picture in the variance, falling with t.
    """
    chance = seeded(0, PURPOSE, 0)
    t = torch.arange(TIMESTEPS).repeat(rounds)
    count = len(data.held_out)
    passes = [torch.randperm(count, generator=chance) for _ in range(-(-len(t) // count))]
    chosen = torch.cat(passes)[: len(t)]
    noise = torch.randn(len(t), 1, 8, 8, generator=chance)
    share = alphas[t].float().view(-1, 1, 1, 1)
    pictures = share.sqrt() * data.held_out[chosen] + (1 - share).sqrt() * noise
    labels = data.held_out_labels[chosen]
    return Noisy(pictures, labels, t, noise, predict_noise(teacher, pictures, labels, t))


@torch.inference_mode()
def predict_noise(model: nn.Module, pictures: Tensor, labels: Tensor, t: Tensor) -> Tensor:
    parts = zip(pictures.split(250), labels.split(250), t.split(250), strict=True)
    return torch.cat([model(x, timestep=s, class_labels=y).sample[:, :1] for x, y, s in parts])


def noise_errors(model: nn.Module, noisy: Noisy) -> dict[str, float]:
    """Mean squared errors of the predicted noise: against the ``teacher``'s, and the true ``noise``."""
    found = predict_noise(model, noisy.pictures, noisy.labels, noisy.t)
    wanted = {"teacher": noisy.teacher, "noise": noisy.noise}
    return {name: F.mse_loss(found, target).item() for name, target in wanted.items()}
