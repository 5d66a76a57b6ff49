"""What can be refused from the flags alone, before data, models or folders are touched."""

from __future__ import annotations

import argparse

from ..runs.checks import check_least
from ..training.checks import flag

AT_LEAST_ONE = (
    "max_steps", "batch_size", "grad_accum_steps", "log_interval", "save_interval", "shard_size",
    "encode_batch_size", "sample_steps", "resolution",
)  # fmt: skip
NOT_NEGATIVE = (
    "seed", "warmup_steps", "sample_interval", "samples", "lr", "weight_decay", "clip_grad", "output_weight",
    "feature_weight", "variance_weight", "guidance", "sample_guidance",
)  # fmt: skip
PARTS = ("label_dropout", "ema_decay")
REQUIRED = {
    "method": "what replaces the attention: linfusion, clear, lit, or none",
    "dataset": "digits, classes or captions",
    "max_steps": "the number of optimizer updates",
}


def check_arguments(args: argparse.Namespace) -> None:
    """Raises: ValueError naming the flag, what it must be and what it was."""
    for name, what in REQUIRED.items():
        if getattr(args, name) is None:
            raise ValueError(f"{flag(name)} must be {what}, got none")
    check_numbers(args)
    check_models(args)
    check_data(args)


def check_numbers(args: argparse.Namespace) -> None:
    for names, least in ((AT_LEAST_ONE, 1), (NOT_NEGATIVE, 0)):
        check_least(args, names, least)
    for name in PARTS:
        value = getattr(args, name)
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"{flag(name)} must be from 0 to below 1, got {value}")


def check_models(args: argparse.Namespace) -> None:
    if args.model and not args.from_scratch:
        raise ValueError("--model needs --from-scratch: without a teacher there is nothing to inherit")
    if args.model and args.teacher:
        raise ValueError("--model and --teacher both say what the student is built like: give one")
    if args.model_kwargs and not args.model:
        raise ValueError("--model-kwargs needs --model")
    if not args.teacher and not args.model:
        raise ValueError("--teacher must be a hub id or a folder, got none")
    if args.method == "none":
        if args.objective is None:
            raise ValueError("--objective must be given for --method none")
        for name in ("method_kwargs", "init", "weights"):
            if getattr(args, name):
                raise ValueError(f"{flag(name)} needs a --method, got none")
        if not args.from_scratch:
            raise ValueError("--method none needs --from-scratch: the teacher would be its own student")
    if args.from_scratch:
        for name in ("output_weight", "feature_weight", "variance_weight"):
            if getattr(args, name):
                raise ValueError(f"{flag(name)} needs a teacher, --from-scratch has none")


def check_data(args: argparse.Namespace) -> None:
    if args.dataset == "digits":
        if args.hflip:
            raise ValueError("--hflip cannot be used with --dataset digits: a mirrored digit is none")
    elif not args.data_dir:
        raise ValueError(f"--data-dir must be a folder of pictures for --dataset {args.dataset}, got none")
    if args.opt == "prodigy" and args.lr < 0.1:
        raise ValueError(f"--lr must be 1 with --opt prodigy, which finds the rate itself, got {args.lr}")
