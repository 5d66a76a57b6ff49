"""Optimizer, learning rates and moving average; all made by timm."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from difflib import get_close_matches
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3, NativeScaler
from torch import nn

WARMUP_LR, MIN_LR = 1e-5, 0.0  # timm's defaults


def resolve_rates(args: argparse.Namespace, world_size: int) -> list[str]:
    """Set ``lr``, ``warmup_lr``, ``min_lr`` and ``model_ema_decay`` in ``args`` for the pictures an update.

    A given rate stands; otherwise its ``_base`` is multiplied by pictures / lr_base_size, or the root of it.
    Returns: lines to log.
    """
    pictures = args.batch_size * world_size * args.grad_accum_steps
    adaptive = any(name in args.opt.lower() for name in ("ada", "lamb"))
    scale = args.lr_base_scale or ("sqrt" if adaptive else "linear")
    ratio = pictures / args.lr_base_size
    factor = ratio**0.5 if scale == "sqrt" else ratio
    lines = []
    if args.lr is None:
        args.lr = args.lr_base * factor
        lines.append(
            f"Learning rate {args.lr:.4g}: {args.lr_base:.4g} at {args.lr_base_size} pictures, "
            f"{scale} scaling to {pictures}"
        )
    if args.warmup_lr is None:
        args.warmup_lr = WARMUP_LR if args.warmup_lr_base is None else args.warmup_lr_base * factor
    if args.min_lr is None:
        args.min_lr = MIN_LR if args.min_lr_base is None else args.min_lr_base * factor
    if args.model_ema and args.model_ema_base_size:
        args.model_ema_decay = args.model_ema_decay ** (pictures / args.model_ema_base_size)
        args.model_ema_base_size = None  # done: args.yaml as a recipe must not do it again
        lines.append(f"Moving average: decay {args.model_ema_decay:.10g} for {pictures} pictures an update")
    return lines


def make_optimizer(args: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    """Raises: ValueError for a name or an argument that there is not."""
    try:
        return create_optimizer_v2(model, **optimizer_kwargs(args), **args.opt_kwargs)
    except (TypeError, ValueError, AssertionError) as error:
        near = get_close_matches(args.opt.lower(), list_optimizers(), n=1)
        hint = f"; did you mean {near[0]}?" if near and near[0] != args.opt.lower() else ""
        raise ValueError(f"--opt {args.opt}: {error}{hint}") from error


def make_schedule(
    args: argparse.Namespace, optimizer: torch.optim.Optimizer, updates: int
) -> tuple[Scheduler | None, int]:
    """The schedule, and the epochs to train with warm-up prefix and cool-down.

    Args:
        updates: optimizer updates an epoch.
    """
    words = scheduler_kwargs(args, decreasing_metric=args.eval_metric == "loss")
    return create_scheduler_v2(optimizer, **words, updates_per_epoch=updates)


def make_scaler(args: argparse.Namespace, device: torch.device) -> NativeScaler | None:
    """A loss scaler for float16; bfloat16 has float32's range and needs none."""
    return NativeScaler(device=device.type) if args.amp and args.amp_dtype == "float16" else None


def autocast(args: argparse.Namespace, device: torch.device) -> Any:
    if not args.amp:
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, args.amp_dtype))


def make_ema(args: argparse.Namespace, model: nn.Module) -> ModelEmaV3 | None:
    if not args.model_ema:
        return None
    return ModelEmaV3(
        model,
        decay=args.model_ema_decay,
        use_warmup=args.model_ema_warmup,
        device=torch.device("cpu") if args.model_ema_force_cpu else None,
    )


def model_parameters(model: nn.Module, clip_mode: str) -> list[nn.Parameter]:
    """What is clipped: adaptive clipping leaves the classifier, which timm has as the last two, alone."""
    parameters = list(model.parameters())
    return parameters[:-2] if clip_mode == "agc" else parameters
