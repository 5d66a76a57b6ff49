"""How a run ends, well or not, and what it says after an update."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from ..training.loop import Diverged
from .folder import last_good


def exit_status(command: str, train: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> int:
    """The status of ``linzoo <command>``: 0 and the run's folder on stdout; 1 where it diverged."""
    try:
        run = train(args)
    except Diverged as error:
        print(f"linzoo {command}: {error}", file=sys.stderr)
        return 1
    if run.primary:
        print(f"linzoo {command}: {run.folder}")
    return 0


def finish(run: Any, train: Callable[[Any], None]) -> None:
    """``train(run)``; whatever ends it early names the last good checkpoint.

    Raises: OSError for a disk, a device's memory or another process; KeyboardInterrupt.
    """
    try:
        train(run)
    except (OSError, torch.OutOfMemoryError) as error:
        raise OSError(f"{str(error).splitlines()[0]}; {last_good(run.folder)}") from error
    except RuntimeError as error:
        if run.accelerator.num_processes == 1 or "gloo" not in str(error):
            raise
        raise OSError(f"another process ended, its own line says why; {last_good(run.folder)}") from error
    except KeyboardInterrupt:
        run.log.say(f"Stopped; {last_good(run.folder)}")
        raise


def report(run: Any, terms: Mapping[str, Tensor], word: str, total: int) -> None:
    """A line and a row of steps.csv for the update just made: means over all processes. Raises: Diverged."""
    names = list(terms)
    values = torch.stack([torch.as_tensor(terms[name], device=run.device).float() for name in names])
    means = run.accelerator.reduce(values, reduction="mean").tolist()
    rate = run.schedule.get_last_lr()[0]
    row = {"step": run.step} | dict(zip(names, means, strict=True)) | {"lr": rate}
    if not isfinite(row["loss"]):
        raise Diverged(f"the loss is NaN or infinite at step {run.step}; {last_good(run.folder)}")
    if run.log.file is None:
        run.log.open(run.folder, tuple(row), run.step - 1)
    run.log.row(row)
    run.history.append(row)
    shown = "  ".join(f"{name} {row[name]:.4g}" for name in names)
    run.log.say(f"{word}: [{run.step:>4d}/{total}]  {shown}  lr {rate:.3e}")
