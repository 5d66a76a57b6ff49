"""``linzoo train-detection CONFIG``: mmdetection's training, with the config, data and weights checked first.

The flags are those of mmdetection's ``tools/train.py``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .detection.config import add_config_arguments, find_config, read_config
from .detection.running import add_launch_arguments, faults_named, make_runner, set_launch, set_work_dir
from .files import check_writable

if TYPE_CHECKING:
    from mmengine.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    add_launch_arguments(parser)
    parser.add_argument("--amp", action="store_true", help="mixed precision (needs a GPU)")
    parser.add_argument("--auto-scale-lr", action="store_true", help="learning rate by the batch size")
    parser.add_argument(
        "--resume", nargs="?", const="auto", metavar="CHECKPOINT", help="go on (no file: from the latest)"
    )


def run(args: argparse.Namespace) -> int:
    cfg = read_config(args.config, args.cfg_options)
    work_dir = prepare(cfg, args)
    check_weights(cfg, work_dir)
    check_writable(work_dir, "--work-dir")
    print(f"training {Path(args.config).stem}, logs and checkpoints in {work_dir}", flush=True)
    return train(cfg, work_dir)


def train(cfg: Config, work_dir: Path) -> int:
    """mmengine's loop; 1 when the loss or a weight became NaN or infinite."""
    from .detection.finite import Diverged, FiniteHook

    try:
        with faults_named(lambda: last_good(work_dir)):
            runner = make_runner(cfg)
            runner.register_hook(FiniteHook())
            runner.train()
    except Diverged as error:
        print(f"linzoo train-detection: {error}{last_good(work_dir)}", file=sys.stderr)
        return 1
    return 0


def prepare(cfg: Config, args: argparse.Namespace) -> Path:
    """The flags into ``cfg``, everything but the weights checked; returns the work dir."""
    from .detection.data_checks import check_data

    work_dir = set_work_dir(cfg, args.work_dir, find_config(args.config).stem)
    set_resume(cfg, args.resume, work_dir)
    set_amp(cfg, args.amp)
    set_launch(cfg, args)
    if args.auto_scale_lr:
        set_auto_scale_lr(cfg)
    lacking = [key for key in ("train_dataloader", "train_cfg", "optim_wrapper") if cfg.get(key) is None]
    if lacking:
        raise ValueError(f"CONFIG {args.config} must have {', '.join(lacking)} to train")
    check_data(cfg, ["train_dataloader", *(["val_dataloader"] if cfg.get("val_dataloader") else [])])
    return work_dir


def set_resume(cfg: Config, resume: str | None, work_dir: Path) -> None:
    """Raises FileExistsError when training anew would overwrite the checkpoints of a run."""
    if resume is None:
        if not cfg.get("resume") and (work_dir / "last_checkpoint").is_file():
            raise FileExistsError(
                f"--work-dir: {work_dir} holds the checkpoints of a run; --resume goes on with it, or name "
                "another folder"
            )
        return
    cfg.resume = True
    cfg.load_from = None if resume == "auto" else resume


def set_amp(cfg: Config, amp: bool) -> None:
    """As mmdetection's --amp. Raises ValueError without a GPU."""
    import torch

    if not amp:
        return
    if not torch.cuda.is_available():
        raise ValueError("--amp needs a GPU, there is none here")
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.setdefault("loss_scale", "dynamic")


def set_auto_scale_lr(cfg: Config) -> None:
    scale = cfg.get("auto_scale_lr") or {}
    if "base_batch_size" not in scale:
        raise ValueError("--auto-scale-lr: the config must have auto_scale_lr.base_batch_size")
    scale["enable"] = True


def check_weights(cfg: Config, work_dir: Path) -> None:
    """The model is one, and the checkpoint to resume or to start from, and the backbone's, fit it.

    Raises: FileNotFoundError; ValueError listing names and shapes.
    """
    from .detection.model_checks import (
        check_backbones,
        check_fit,
        check_sync_bn,
        meta_detector,
        read_checkpoint,
        weights_of,
    )

    model = meta_detector(cfg)
    if cfg.get("sync_bn") and cfg.launcher != "none":
        check_sync_bn(model)
    source, flag = cfg.get("load_from"), "--resume" if cfg.get("resume") else "load_from"
    if cfg.get("resume") and source is None:
        source = latest(work_dir)
    if source is None:
        check_backbones(model)
    elif "://" not in source:
        checkpoint = read_checkpoint(source, flag)
        state = weights_of(checkpoint, model, f"{flag} {source}")
        check_fit(state, model, f"{flag} {source}", only="" if cfg.get("resume") else "backbone.")
        lacking = {"meta", "optimizer"} - checkpoint.keys()
        if cfg.get("resume") and lacking:
            raise ValueError(f"--resume {source} must hold {', '.join(sorted(lacking))}: weights only?")


def last_good(work_dir: Path) -> str:
    """Where to go on from, in words."""
    found = latest(work_dir)
    if found is None:
        return "; no checkpoint had been written"
    return f"; the last checkpoint is {found} (--resume goes on)"


def latest(work_dir: Path) -> str | None:
    """The checkpoint that --resume without a file goes on from; None: there is none, a run starts."""
    from mmengine.runner import find_latest_checkpoint

    return find_latest_checkpoint(str(work_dir)) if (work_dir / "last_checkpoint").is_file() else None
