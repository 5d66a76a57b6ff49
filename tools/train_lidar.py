"""``linzoo train`` for LiDAR detectors: a recipe of ``configs/pointcloud``, or ``--detector NAME``.

Alone, or in K processes: ``accelerate launch -m linzoo train ...`` (or torchrun). Flags win over a recipe.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence

from .runs import settings

DOMAIN = "pointcloud"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from .lidar.arguments import add_groups

    add_groups(parser)


def defaults_from(argv: Sequence[str], parser: argparse.ArgumentParser) -> dict:
    """What the recipe in ``argv`` says, as values by argument name; empty without one.

    Args:
        argv: the command line, the command's own name included.
    """
    return settings.defaults_from(argv, parser, "train", DOMAIN)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The words behind ``linzoo train`` as arguments, recipe included: for use from Python."""
    return settings.parse(words, "train", add_arguments, DOMAIN)


def is_meant(words: Sequence[str]) -> bool:
    """Whether a command line is about a LiDAR detector: ``--detector``, or a recipe that names one."""
    if any(word == "--detector" or word.startswith("--detector=") for word in words):
        return True
    from .recipe import recipe_names

    packaged = set(recipe_names(DOMAIN))
    return any(word in packaged or names_detector(word) for word in may_be_recipes(words))


def may_be_recipes(words: Sequence[str]) -> Iterator[str]:
    """Behind ``-c`` and ``--config``, and words that are not the one value of a flag."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    with_value = {o for a in parser._actions if a.nargs is None for o in a.option_strings}
    before = ""
    for word in words:
        if word.startswith("--config="):
            yield word.removeprefix("--config=")
        elif word.startswith("-c") and not word.startswith("--"):
            yield word[2:]
        elif not word.startswith("-") and (before in ("-c", "--config") or before not in with_value):
            yield word
        before = word


def names_detector(word: str) -> bool:
    """Whether ``word`` is a recipe or a run's ``args.yaml`` with a key ``detector``, as far as it is read."""
    from pathlib import Path

    from .recipe import SUFFIXES

    path = Path(word)
    if path.suffix not in SUFFIXES or not path.is_file():
        return False
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    return any(re.match(r"""\s*["']?detector["']?\s*[=:]""", line) for line in lines)


def run(args: argparse.Namespace) -> int:
    from .lidar.session import train_detector
    from .runs.ending import exit_status

    return exit_status("train", train_detector, args)
