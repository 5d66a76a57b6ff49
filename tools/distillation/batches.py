"""Batches from samples and draws."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from ...diffusion.distill import Batch, Denoiser
from ..runs.plan import Item
from .draws import draw
from .samples import Samples


class BatchMaker:
    """Args: denoiser: says which class stands for none."""

    def __init__(
        self, args: argparse.Namespace, samples: Samples, denoiser: Denoiser, device: torch.device
    ) -> None:
        self.args, self.samples, self.denoiser, self.device = args, samples, denoiser, device

    def make(self, items: Sequence[Item]) -> Batch:
        args, samples = self.args, self.samples
        draws = [draw(args.seed, item, samples.shape) for item in items]
        found = [
            samples.read(item.index, args.hflip and numbers.flip < 0.5)
            for item, numbers in zip(items, draws, strict=True)
        ]
        clean = [
            sample.mean if sample.deviation is None else sample.mean + sample.deviation * numbers.clean
            for sample, numbers in zip(found, draws, strict=True)
        ]
        conditions = {
            name: torch.stack([sample.conditions[name] for sample in found]).to(self.device)
            for name in found[0].conditions
        }
        if "labels" in conditions:
            dropped = torch.tensor([numbers.drop < args.label_dropout for numbers in draws])
            none = self.denoiser.absent(conditions)["labels"]
            conditions["labels"] = torch.where(dropped.to(self.device), none, conditions["labels"])
        return Batch(
            clean=torch.stack(clean).to(self.device),
            noise=torch.stack([numbers.noise for numbers in draws]).to(self.device),
            places=self.spread(torch.tensor([numbers.place for numbers in draws])).to(self.device),
            conditions=conditions,
        )

    def spread(self, uniform: Tensor) -> Tensor:
        """Uniform numbers as the places asked for; float32 rounds the last of them up to 1."""
        if self.args.timesteps == "logit-normal":
            uniform = torch.special.ndtri(uniform).sigmoid()
        return uniform
