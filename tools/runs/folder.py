"""Where a run is written, and what it goes on from."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from ..files import check_writable, remove_leftovers, write_atomic
from ..training.checkpoint import LAST, plain_arguments
from .resumed import ARGS


def choose_folder(args: argparse.Namespace, subject: str) -> tuple[Path, Path | None]:
    """The run's folder, and the checkpoint to go on from, if there is one.

    Args:
        args: ``output``, ``experiment``, ``resume`` and ``config`` are read.
        subject: what a folder without recipe is named after.
    Raises: ValueError for a folder that holds another run; FileNotFoundError for a run that is not there.
    """
    output = Path(args.output)
    if args.resume and args.resume != "auto":
        path = Path(args.resume)
        folder = path.parent if path.name == LAST else path
        if not (folder / LAST).is_file():
            raise FileNotFoundError(
                f"--resume must be the folder of a run with {LAST}, {args.resume} is none"
            )
        return folder, folder / LAST
    name = args.experiment
    if args.resume and not name:
        found = sorted(output.glob(f"*/{LAST}"), key=lambda file: file.stat().st_mtime)
        name = found[-1].parent.name if found else ""
    if not name:
        recipe = Path(args.config).stem if args.config else subject
        name = f"{datetime.now():%Y%m%d-%H%M%S}-{recipe}"
    folder = output / name
    check_place(folder)
    last = folder / LAST
    if args.resume:
        return folder, last if last.is_file() else None
    if last.exists() or (folder / ARGS).exists():
        raise ValueError(
            f"--experiment must be a new name, {folder} holds a run; --resume auto goes on with it"
        )
    return folder, None


def claim(folder: Path, args: argparse.Namespace) -> None:
    """Makes the folder and writes its args.yaml; what a process that was killed left half written is gone.

    Raises: OSError naming --output where nothing can be written.
    """
    check_writable(folder, "--output")
    remove_leftovers(folder)
    text = yaml.safe_dump(plain_arguments(args), default_flow_style=False)
    write_atomic(folder / ARGS, text.encode())


def check_place(folder: Path) -> None:
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"--output must be a folder, {place} is a file")


def last_good(folder: Path) -> str:
    """Where to go on from, in words."""
    if not (folder / LAST).exists():
        return "no checkpoint had been written"
    return f"the last good checkpoint is {folder / LAST} (--resume {folder} goes on)"


def refuse_other_run(
    path: Path, args: argparse.Namespace, then: Mapping[str, Any], may_differ: Collection[str], *counts: tuple
) -> None:
    """That a run goes on as it began.

    Args:
        then: the flags that the checkpoint at ``path`` was made with.
        may_differ: flags that change nothing about the run.
        counts: (what is counted, the checkpoint's number, this run's).
    Raises: ValueError listing what differs.
    """
    now = plain_arguments(args)
    differ = [name for name in sorted(now.keys() - may_differ) if name in then and then[name] != now[name]]
    words = [f"{name} {then[name]} -> {now[name]}" for name in differ]
    words += [f"{what} {before} -> {here}" for what, before, here in counts if before != here]
    if words:
        more = f" and {len(words) - 5} more" if len(words) > 5 else ""
        raise ValueError(f"--resume: this run is not that of {path}: {', '.join(words[:5])}{more}")
