"""Where a run is written, and what it goes on from."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path

from ..training.checkpoint import LAST

ARGS = "args.yaml"


def choose_folder(args: argparse.Namespace) -> tuple[Path, Path | None]:
    """The run's folder, and the checkpoint to go on from, if there is one.

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
        recipe = Path(args.config).stem if args.config else args.method
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


def check_place(folder: Path) -> None:
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"--output must be a folder, {place} is a file")
