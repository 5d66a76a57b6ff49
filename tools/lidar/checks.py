"""What can be refused from the flags alone, before data, models or folders are touched."""

from __future__ import annotations

import argparse
from math import inf

from ..runs.checks import check_least
from ..training.checks import flag

AT_LEAST_ONE = (
    "batch_size", "grad_accum_steps", "sweeps", "scenes", "val_scenes", "epochs", "max_steps", "log_interval",
    "save_interval", "paste_min_points",
)  # fmt: skip
NOT_NEGATIVE = (
    "seed", "scene_seed", "workers", "rotate", "translate", "no_paste_epochs", "no_aug_epochs", "lr",
    "weight_decay", "val_interval",
)  # fmt: skip
ABOVE_ZERO = ("clip_grad",)


def check_arguments(args: argparse.Namespace) -> None:
    """Raises: ValueError naming the flag, what it must be and what it was."""
    check_data(args)
    check_numbers(args)
    check_nuscenes(args)
    low, high = args.scale
    if not 0 < low <= high < inf:
        raise ValueError(f"--scale must be two factors above 0, rising, got {low} {high}")
    if not 0 < args.pct_start < 1:
        raise ValueError(f"--pct-start must lie between 0 and 1, got {args.pct_start}")
    if not 1 <= args.div_factor < inf:
        raise ValueError(f"--div-factor must be at least 1, got {args.div_factor}")
    for name in ("no_paste_epochs", "no_aug_epochs"):
        if getattr(args, name) > args.epochs:
            raise ValueError(
                f"{flag(name)} must be at most the {args.epochs} epochs, got {getattr(args, name)}"
            )
    for name, count in args.paste.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError(f"--paste must be CLASS=COUNT with whole counts, got {name}={count}")


def check_data(args: argparse.Namespace) -> None:
    """A detector, and a data set with the folder that it needs or does not need."""
    if not args.detector:
        raise ValueError("--detector must be a detector's name (`linzoo list --detectors`), got none")
    if args.dataset is None:
        raise ValueError("--dataset must be synthetic, kitti, nuscenes or waymo, got none")
    if args.dataset != "synthetic" and not args.data_dir:
        raise ValueError(f"--data-dir must be the folder of the data set {args.dataset}, got none")
    for name in ("data_dir", "prepared"):
        if args.dataset == "synthetic" and getattr(args, name):
            raise ValueError(
                f"{flag(name)}: the synthetic scenes are drawn, not read, got {getattr(args, name)}"
            )


def check_numbers(args: argparse.Namespace) -> None:
    """Of all flags that the command has."""
    for names, least in ((AT_LEAST_ONE, 1), (NOT_NEGATIVE, 0)):
        check_least(args, [name for name in names if name in args], least)
    for name in ABOVE_ZERO:
        value = getattr(args, name, 1.0)
        if not value > 0:  # infinite: gradients stay as they are
            raise ValueError(f"{flag(name)} must be above 0, got {value}")


def check_nuscenes(args: argparse.Namespace) -> None:
    """That flags of nuScenes are not given with a data set that would pass them by."""
    for name, usual in (("sweeps", 1), ("data_version", "v1.0-trainval")):
        if args.dataset != "nuscenes" and getattr(args, name) != usual:
            raise ValueError(
                f"{flag(name)} must go with the data set nuscenes, got {args.dataset} and "
                f"{getattr(args, name)}"
            )


def check_export(args: argparse.Namespace) -> None:
    """``validate``: numbers in range, a data set whose benchmark takes files, and places for what is written:
    before the detector runs over all frames."""
    check_numbers(args)
    check_nuscenes(args)
    if args.results_file is not None and args.results_file.is_dir():
        raise ValueError(f"--results-file must be a file, {args.results_file} is a folder")
    if args.export is not None and args.dataset not in ("kitti", "nuscenes"):
        raise ValueError(f"--export must go with the data set kitti or nuscenes, got {args.dataset}")
    if args.export is not None and args.export.exists():
        if args.dataset == "kitti" and not args.export.is_dir():
            raise ValueError(f"--export must be a folder for kitti, {args.export} is a file")
        if args.dataset == "nuscenes" and args.export.is_dir():
            raise ValueError(f"--export must be a json file for nuscenes, {args.export} is a folder")
