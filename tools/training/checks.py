"""What can be refused from the flags alone, before data, model or folders are touched."""

from __future__ import annotations

import argparse

AT_LEAST_ONE = ("batch_size", "grad_accum_steps", "epochs", "log_interval", "checkpoint_hist", "lr_base_size")
OPTIONAL_AT_LEAST_ONE = (
    "validation_batch_size", "num_classes", "img_size", "in_chans", "max_steps", "model_ema_base_size",
)  # fmt: skip
NOT_NEGATIVE = (
    "seed", "workers", "recovery_interval", "mixup", "cutmix", "aug_repeats", "cooldown_epochs",
    "warmup_epochs", "mixup_off_epoch", "weight_decay", "recount", "aug_splits",
)  # fmt: skip
OPTIONAL_NOT_NEGATIVE = (
    "lr", "warmup_lr", "warmup_lr_base", "min_lr", "min_lr_base", "clip_grad", "start_epoch", "layer_decay",
)  # fmt: skip
PARTS = (
    "drop", "drop_path", "hflip", "vflip", "reprob", "mixup_prob", "mixup_switch_prob", "grayscale_prob",
    "gaussian_blur_prob", "color_jitter_prob", "model_ema_decay", "smoothing",
)  # fmt: skip


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def check_arguments(args: argparse.Namespace) -> None:
    """Raises: ValueError naming the flag, what it must be and what it was."""
    if not args.model:
        raise ValueError("--model must be a model's name (`linzoo list` shows ours), got none")
    check_numbers(args)
    check_ranges(args)
    check_together(args)


def check_numbers(args: argparse.Namespace) -> None:
    for names, least in (
        (AT_LEAST_ONE + OPTIONAL_AT_LEAST_ONE, 1),
        (NOT_NEGATIVE + OPTIONAL_NOT_NEGATIVE, 0),
    ):
        for name in names:
            value = getattr(args, name)
            if value is not None and not value >= least:
                raise ValueError(f"{flag(name)} must be at least {least}, got {value}")
    for name in PARTS:
        value = getattr(args, name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{flag(name)} must be from 0 to 1, got {value}")


def check_ranges(args: argparse.Namespace) -> None:
    for name in ("scale", "ratio"):
        pair = list(getattr(args, name))
        if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
            raise ValueError(f"{flag(name)} must be two numbers 0 < low <= high, got {pair}")
    if args.cutmix_minmax is not None:
        low, high = args.cutmix_minmax
        if not 0 <= low < high <= 1:
            raise ValueError(f"--cutmix-minmax must be 0 <= low < high <= 1, got {low} {high}")
    if args.input_size is not None and min(args.input_size) < 1:
        raise ValueError(f"--input-size must be three lengths of at least 1, got {args.input_size}")
    if args.input_size and args.in_chans and args.input_size[0] != args.in_chans:
        raise ValueError(f"--in-chans must be --input-size's {args.input_size[0]}, got {args.in_chans}")
    chans = args.in_chans or (args.input_size[0] if args.input_size else 3)
    for name in ("mean", "std"):
        value = getattr(args, name)
        if value is not None and len(value) not in (1, chans):
            raise ValueError(f"{flag(name)} must have one number or {chans}, one a channel, got {value}")


def check_together(args: argparse.Namespace) -> None:
    mixed = args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None
    if mixed and args.batch_size % 2:
        raise ValueError(f"--batch-size must be even with mixup or cutmix, got {args.batch_size}")
    if mixed and args.aug_splits:
        raise ValueError("--aug-splits cannot be used with mixup or cutmix")
    if args.aug_splits == 1 or (args.jsd_loss and args.aug_splits < 2):
        raise ValueError(f"--aug-splits must be at least 2 (--jsd-loss needs it), got {args.aug_splits}")
    if args.eval_metric != "loss" and args.sched == "plateau" and not args.val_split:
        raise ValueError("--sched plateau needs a validation split: --val-split must not be empty")
    if args.pretrained_path and args.initial_checkpoint:
        raise ValueError("--pretrained-path and --initial-checkpoint are two starts: give one")
    if args.bce_loss and args.jsd_loss:
        raise ValueError("--bce-loss and --jsd-loss are two losses: give one")
