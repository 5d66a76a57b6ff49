"""Optimizer and learning rates from libraries, and the moving average."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn

from ..extras import need


def make_optimizer(args: argparse.Namespace, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Raises: ValueError for an argument that the optimizer does not have; ImportError without prodigyopt."""
    cls: Any = torch.optim.AdamW if args.opt == "adamw" else need("prodigyopt", "diffusion").Prodigy
    try:
        return cls(parameters, lr=args.lr, weight_decay=args.weight_decay, **args.opt_kwargs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--opt-kwargs {args.opt_kwargs}: {error}") from error


def make_schedule(args: argparse.Namespace, optimizer: torch.optim.Optimizer) -> Any:
    """One of diffusers' schedules, a step an update. A constant rate with warm-up is its own there."""
    from diffusers.optimization import get_scheduler

    name = "constant_with_warmup" if args.sched == "constant" and args.warmup_steps else args.sched
    return get_scheduler(
        name, optimizer, num_warmup_steps=args.warmup_steps, num_training_steps=args.max_steps
    )


def make_ema(args: argparse.Namespace, model: nn.Module) -> ModelEmaV3 | None:
    return None if args.ema_decay is None else ModelEmaV3(model, decay=args.ema_decay)
