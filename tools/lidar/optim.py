"""Adam with decoupled decay under a one-cycle schedule: OpenPCDet's ``adam_onecycle`` from torch's parts."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import torch
from torch import nn

BETAS = (0.9, 0.99)  # the first one is 0.95 at the schedule's ends and 0.85 at its top
FINAL = 1e4  # first over last learning rate


def make_optimizer(args: argparse.Namespace, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Over all parameters. The authors' code passes over those of modules that have children."""
    return torch.optim.AdamW(parameters, lr=args.lr, betas=BETAS, weight_decay=args.weight_decay)


def make_schedule(
    args: argparse.Namespace, optimizer: torch.optim.Optimizer, updates: int
) -> torch.optim.lr_scheduler.OneCycleLR:
    """Learning rate and momentum over ``updates`` updates, a step an update; cosine both ways."""
    rising = args.pct_start
    if rising * updates == 1:  # torch would divide by the length of this rise, 0
        rising *= 1 + 1e-9
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=args.lr,
        total_steps=updates,
        pct_start=rising,
        div_factor=args.div_factor,
        final_div_factor=FINAL,
        base_momentum=0.85,
        max_momentum=0.95,
    )
