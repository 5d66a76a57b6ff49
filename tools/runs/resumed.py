"""A run that ``--resume RUN`` alone takes up: of which kind it is, and its settings, by its args.yaml."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

ARGS = "args.yaml"


class Kind(NamedTuple):
    """subject: the flag and key that say what trains.  command: of ``linzoo``, which trains it."""

    subject: str
    command: str


KINDS = {  # by domain; vision's last: a distillation has a key "model" too
    "pointcloud": Kind("detector", "train"),
    "diffusion": Kind("method", "distill"),
    "vision": Kind("model", "train"),
}


def args_file(given: argparse.Namespace, domain: str) -> Path | None:
    """The run's ``args.yaml``; None where a recipe or a flag says what trains, or no run is named.

    Args:
        given: ``config``, ``resume`` and the domain's subject are read.
    Raises: FileNotFoundError for what is no run's folder, nor a file in one.
    """
    named = given.resume and given.resume != "auto"
    if not named or given.config is not None or getattr(given, KINDS[domain].subject):
        return None
    place = Path(given.resume)
    file = (place if place.is_dir() else place.parent) / ARGS
    if not file.is_file():
        raise FileNotFoundError(
            f"--resume must be a run's folder with {ARGS} where nothing else says what to train, "
            f"got {given.resume}"
        )
    return file


def domain_of(file: Path) -> str:
    """Raises: ValueError for an ``args.yaml`` of no run of ours."""
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        content = None
    for domain, kind in KINDS.items():
        if isinstance(content, dict) and content.get(kind.subject):
            return domain
    subjects = ", ".join(kind.subject for kind in KINDS.values())
    raise ValueError(f"--resume must be the folder of a run, {file} names none of {subjects}")


def check_command(file: Path, command: str) -> str:
    """The domain of a run of ``linzoo <command>``. Raises: ValueError for a run of another command."""
    domain = domain_of(file)
    if KINDS[domain].command != command:
        raise ValueError(
            f"--resume must be a run of `linzoo {command}`, "
            f"{file.parent} is one of `linzoo {KINDS[domain].command}`"
        )
    return domain


def settings_in(file: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """What the run was started with, as values by argument name; its folder is where the file lies now."""
    from ..recipe import read_recipe

    folder = file.parent.resolve()
    return read_recipe(file, parser) | {"output": str(folder.parent), "experiment": folder.name}
