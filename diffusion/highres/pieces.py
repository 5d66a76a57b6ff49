"""The formulas of LinFusion's SD-XL rungs (arXiv 2409.02097, its high-resolution pipelines).

    g(t) = (1 + cos(pi (T - t) / T)) / 2                 1 at t = T, 0 at t = 0; T training steps
    z  <- (1 - c1) z + c1 noisy_t,   c1 = g^a            skip residual to the noised start
    z1  = step(eps(z), z)                                ordinary convolutions
    z2  = step(eps_R(blur(z)), z)                        convolutions dilated by R
    z  <- (1 - c2) z1 + c2 z2,       c2 = g^b

blur: a Gaussian of 2 R - 1 taps and sigma = s (0.99 g^c + 0.01), zeros beyond the edges, brought back to the
mean and standard deviation that z has in each channel of each image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Statistics(NamedTuple):
    """Mean and standard deviation of each channel of each image: (B, C, 1, 1) twice."""

    mean: Tensor
    std: Tensor


def statistics(latents: Tensor) -> Statistics:  # (B, C, height, width)
    return Statistics(latents.mean((2, 3), keepdim=True), latents.std((2, 3), keepdim=True))


def with_statistics(latents: Tensor, wanted: Statistics) -> Tensor:
    """``latents``, shifted and scaled in each channel of each image to the wanted mean and deviation."""
    own = statistics(latents)
    return (latents - own.mean) / own.std * wanted.std.to(latents) + wanted.mean.to(latents)


def cosine(t: float, train_steps: int) -> float:
    """g(t) above, for a timestep of 0 .. train_steps."""
    return 0.5 * (1 + math.cos(math.pi * (train_steps - t) / train_steps))


def mix(first: Tensor, second: Tensor, weight: float) -> Tensor:
    return first * (1 - weight) + second * weight


def gaussian_blur(latents: Tensor, taps: int, sigma: float) -> Tensor:
    """Each channel with a ``taps`` x ``taps`` Gaussian whose weights sum to 1; zeros beyond the edges."""
    distance = torch.arange(taps, device=latents.device, dtype=torch.float64) - (taps - 1) / 2
    weights = (-(distance**2) / (2 * sigma**2)).exp()
    weights = (weights / weights.sum()).to(latents.dtype)
    channels = latents.shape[1]
    across = weights.view(1, 1, 1, taps).expand(channels, 1, 1, taps)
    rows = F.conv2d(latents, across, padding=(0, taps // 2), groups=channels)
    return F.conv2d(rows, across.transpose(2, 3), padding=(taps // 2, 0), groups=channels)


def blurred(latents: Tensor, ratio: int, sigma: float) -> Tensor:
    """The input of the dilated prediction: blurred with 2 ratio - 1 taps, statistics as before."""
    return with_statistics(gaussian_blur(latents, 2 * ratio - 1, sigma), statistics(latents))


@contextmanager
def dilated(model: nn.Module, ratio: int) -> Iterator[None]:
    """Within: dilation and padding of every Conv2d of ``model`` times ``ratio``; after: as they were.

    Whatever is raised inside, the convolutions get their own settings back.
    """
    before = [(m, m.dilation, m.padding) for m in model.modules() if isinstance(m, nn.Conv2d)]
    for module, _, padding in before:
        if isinstance(padding, str):
            raise ValueError(f"padding of the model's convolutions must be numbers, got {padding!r}")
        if module.padding_mode != "zeros":
            mode = module.padding_mode
            raise ValueError(f"padding_mode of the model's convolutions must be 'zeros', got {mode!r}")
    try:
        for module, dilation, padding in before:
            module.dilation = tuple(ratio * n for n in dilation)
            module.padding = tuple(ratio * n for n in padding)
        yield
    finally:
        for module, dilation, padding in before:
            module.dilation, module.padding = dilation, padding
