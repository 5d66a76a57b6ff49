"""Where a run is written, and which checkpoint it goes on from."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path

from .checkpoint import LAST
from .world import World


def choose_folder(args: argparse.Namespace, world: World) -> tuple[Path, Path | None]:
    """The run's folder, and the checkpoint to go on from.

    Raises: ValueError for a folder that holds another run; FileNotFoundError for a missing checkpoint.
    """
    output = Path(args.output or "runs/train")
    name = args.experiment
    if not name and args.resume == "auto":
        found = sorted(output.glob(f"*/{LAST}"), key=lambda file: file.stat().st_mtime)
        name = found[-1].parent.name if found else ""
    path = find_resume(args.resume, output / name) if args.resume and name else None
    if args.resume and args.resume != "auto" and not name:
        path = find_resume(args.resume, output)
        return path.parent, path
    if not name:
        side = args.img_size or (args.input_size[-1] if args.input_size else "")
        words = [f"{datetime.now():%Y%m%d-%H%M%S}", args.model, str(side)]
        name = world.gather("-".join(word for word in words if word))[0]
    folder = output / name
    if (folder / LAST).exists() and (path is None or path.parent.resolve() != folder.resolve()):
        raise ValueError(
            f"--experiment must be a new name, {folder} holds a run; --resume auto goes on with it"
        )
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"--output must be a folder, {place} is a file")
    return folder, path


def find_resume(resume: str, folder: Path) -> Path | None:
    """The checkpoint that ``--resume`` means; None for "auto" where there is none yet.

    Raises: FileNotFoundError.
    """
    if resume == "auto":
        return folder / LAST if (folder / LAST).is_file() else None
    path = Path(resume)
    found = path / LAST if path.is_dir() else path
    if not found.is_file():
        raise FileNotFoundError(f"--resume must be a checkpoint or a run's folder with {LAST}, got {resume}")
    return found
