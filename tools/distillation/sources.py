"""Opening what a distillation reads, and whether it fits the model."""

from __future__ import annotations

import argparse
from typing import Any

from ...diffusion.distill import Denoiser
from ..runs.log import Log
from .samples import Digits, Samples
from .teacher import Teacher


def open_samples(
    args: argparse.Namespace, teacher: Teacher, denoiser: Denoiser, accelerator: Any, log: Log
) -> Samples:
    """The digits, or a folder of pictures through the cache, which is filled where it is not yet.

    Raises: ValueError, OSError, ImportError naming what does not fit or cannot be read.
    """
    wanted = ("digits", "classes") if "labels" in denoiser.needs else ("captions",)
    if args.dataset not in wanted:
        name = type(teacher.model).__name__
        raise ValueError(f"--dataset must be {' or '.join(wanted)} for a {name}, got {args.dataset}")
    if args.dataset == "digits":
        return Digits()
    from .cache import cached_samples

    return cached_samples(args, teacher, accelerator, log)


def check_fits(args: argparse.Namespace, samples: Samples, denoiser: Denoiser) -> None:
    """Raises: ValueError when the latents are not the model's."""
    config = denoiser.config
    channels = config.in_channels // 4 if hasattr(config, "guidance_embeds") else config.in_channels
    if samples.shape[0] != channels:
        raise ValueError(
            f"--dataset must give the {channels} channels that the model takes, {args.dataset} has "
            f"{samples.shape[0]}"
        )
    if "labels" in denoiser.needs and samples.shape[1:] != (config.sample_size,) * 2:
        wanted, size = config.sample_size, "x".join(map(str, samples.shape[1:]))
        raise ValueError(f"--resolution must give the model's {wanted}x{wanted} latents, got {size}")
