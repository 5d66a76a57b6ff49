"""What ``parallelize`` will change in one model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Target:
    """One module to change."""

    name: str
    module: nn.Module
    mixin: type
    level: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    targets: tuple[Target, ...]
    model: type  # mixin of the model's class


def check_inference() -> None:
    """Raises: RuntimeError where autograd would record: messages carry no gradients."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "parallelize: the model must be called under torch.no_grad() or torch.inference_mode() "
            "(pipelines do), got gradients enabled; for training close() the handle and split the batch "
            "over processes instead"
        )
