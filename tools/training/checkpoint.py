"""Checkpoints: complete, written whole or not at all, named as timm's CheckpointSaver names them.

``last.pth.tar`` is the newest state, also within an epoch; ``checkpoint-N.pth.tar`` are the best epochs and
``model_best.pth.tar`` the best of all. timm's own readers take them: ``timm.models.load_checkpoint``,
``resume_checkpoint``. They hold tensors and plain containers: ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import argparse
import os
from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import write_atomic

SUFFIX = ".pth.tar"
LAST, BEST = f"last{SUFFIX}", f"model_best{SUFFIX}"
VERSION = 2  # timm's: "epoch" is the last finished epoch
# what may change between a run and its continuation; everything else would give another run
MAY_DIFFER = {
    "resume", "no_resume_opt", "output", "experiment", "device", "workers", "pin_mem", "log_interval",
    "recovery_interval", "checkpoint_hist", "report_to", "max_steps", "validation_batch_size", "data",
    "data_dir", "dataset_download", "initial_checkpoint", "pretrained", "pretrained_path", "start_epoch",
    "synchronize_step", "config", "grad_checkpointing", "torchcompile", "torchcompile_mode",
}  # fmt: skip


@dataclass(slots=True)
class Progress:
    """How far a run is.

    Args:
        epoch, step: the next step to make.
        update, steps: optimizer updates and steps made in all.
        loss_sum, pictures: over the epoch so far, this process's.
        history: a row an epoch, for summary.csv.
        kept: [epoch, metric] of the numbered checkpoints, best first.
        best_metric, best_epoch: None before the first validation.
    """

    epoch: int = 0
    step: int = 0
    update: int = 0
    steps: int = 0
    loss_sum: float = 0.0
    pictures: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    kept: list[list] = field(default_factory=list)
    best_metric: float | None = None
    best_epoch: int | None = None


def rank_kept(kept: list[list], epoch: int, metric: float | None, most: int, decreasing: bool) -> list[list]:
    """``kept`` and this epoch, at most ``most``: best first, earlier first; without metrics, newest first."""
    entries = [*kept, [epoch, metric]]
    ranked = sorted((e for e in entries if e[1] is not None), key=lambda e: e[1], reverse=not decreasing)
    unranked = sorted((e for e in entries if e[1] is None), key=lambda e: -e[0])
    return (ranked + unranked)[:most]


class CheckpointFolder:
    """A run's folder.

    Args:
        most: numbered checkpoints to keep.
        decreasing: a lower metric is better.
    """

    def __init__(self, folder: Path, most: int, decreasing: bool) -> None:
        self.folder, self.most, self.decreasing = folder, most, decreasing

    @property
    def last(self) -> Path:
        return self.folder / LAST

    def numbered(self, epoch: int) -> Path:
        return self.folder / f"checkpoint-{epoch}{SUFFIX}"

    def rank(self, progress: Progress, epoch: int, metric: float | None) -> None:
        """Enter a finished epoch in ``progress``."""
        progress.kept = rank_kept(progress.kept, epoch, metric, self.most, self.decreasing)
        best = progress.best_metric
        if metric is not None and (best is None or (metric < best if self.decreasing else metric > best)):
            progress.best_metric, progress.best_epoch = metric, epoch

    def write(self, state: dict) -> None:
        """Replace ``last``. Raises: OSError, and ``last`` is what it was."""
        try:
            write_atomic(self.last, lambda file: torch.save(state, file))
        except (OSError, RuntimeError) as error:  # RuntimeError: torch's archive writer, on a full disk
            reason = written_by(error) or str(error).splitlines()[0]
            raise OSError(f"cannot write {self.last}: {reason}") from error

    def settle(self, progress: Progress) -> None:
        """Number ``last`` after the epoch just finished, if it is worth keeping; drop what no longer is."""
        epoch = progress.epoch - 1
        keep = {self.numbered(number) for number, _ in progress.kept}
        if self.numbered(epoch) in keep:
            self.link(self.numbered(epoch))
        if progress.best_epoch == epoch:
            self.link(self.folder / BEST)
        for file in self.folder.glob(f"checkpoint-*{SUFFIX}"):
            if file not in keep:
                file.unlink(missing_ok=True)

    def link(self, target: Path) -> None:
        """``target`` becomes a second name of ``last``'s content (a copy where there are no hard links)."""
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            os.link(self.last, temporary)
        except OSError:
            write_atomic(target, self.last.read_bytes())
            return
        os.replace(temporary, target)


def written_by(error: BaseException | None) -> str:
    """The system's reason ("No space left on device") behind torch's error, "" when there is none."""
    while error is not None and not (isinstance(error, OSError) and error.strerror):
        error = error.__cause__ or error.__context__
    return "" if error is None else error.strerror


def plain(value: Any) -> Any:
    """Only dicts, lists, numbers and strings (tuples become lists)."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)


def plain_arguments(args: argparse.Namespace) -> dict:
    """The flags as ``args.yaml`` and checkpoints hold them."""
    inner = {"run", "command", "debug", "config"}
    return {key: plain(value) for key, value in sorted(vars(args).items()) if key not in inner}


def pack(args: argparse.Namespace, progress: Progress, metric: float | None, parts: dict) -> dict:
    """The content of a checkpoint: timm's keys, and ours for an exact continuation."""
    from ... import __version__

    state = {
        "epoch": progress.epoch - 1,
        "arch": args.model,
        "version": VERSION,
        "args": plain_arguments(args),
        "progress": plain(asdict(progress)),
        "linzoo": __version__,
    }
    return state | ({} if metric is None else {"metric": metric}) | parts


def find_bad_weight(tensors: OrderedDict[str, Tensor] | dict[str, Tensor]) -> str | None:
    """The name of the first weight that is NaN or infinite; None when all are finite."""
    return next((k for k, v in tensors.items() if v.is_floating_point() and not v.isfinite().all()), None)


def load(path: Path) -> object:
    """What a checkpoint holds. Raises: ValueError for a damaged file."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # zip, pickle and the system each have their own classes for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"--resume: {path} cannot be read, damaged or no checkpoint ({reason})") from None


def read(path: Path) -> dict:
    """Raises: ValueError for a file that is damaged or no training checkpoint of ours."""
    state = load(path)
    needed = {"state_dict", "optimizer", "args", "progress", "ranks"}
    if not isinstance(state, dict) or not needed <= state.keys():
        raise ValueError(
            f"--resume must be a checkpoint of `linzoo train`, {path} is none; "
            "--initial-checkpoint takes weights"
        )
    return state


def check_same_run(state: dict, path: Path, args: argparse.Namespace, world_size: int) -> None:
    """Raises: ValueError listing the flags in which this run differs from the checkpoint's."""
    now, then = plain_arguments(args), state["args"]
    names = ("model", "model_kwargs", "num_classes") if args.no_resume_opt else now.keys() - MAY_DIFFER
    differ = [name for name in sorted(names) if name in then and then[name] != now[name]]
    words = [f"{name} {then[name]} -> {now[name]}" for name in differ]
    if len(state["ranks"]) != world_size and not args.no_resume_opt:
        words.append(f"processes {len(state['ranks'])} -> {world_size}")
    if words:
        more = f" and {len(words) - 5} more" if len(words) > 5 else ""
        raise ValueError(
            f"--resume: this run is not that of {path}: {', '.join(words[:5])}{more}. "
            "Give the same flags, or start a new run with --initial-checkpoint"
        )
