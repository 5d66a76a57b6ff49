"""``linzoo train``: train or fine-tune any timm model, with the flags of timm's train.py.

Alone, or in K processes: ``torchrun --nproc-per-node K -m linzoo train ...``. Flags win over a recipe. A
recipe of ``configs/pointcloud``, or ``--detector NAME``, trains a LiDAR detector: see train_lidar.py.
``--resume RUN`` alone goes on with a run of either kind, as its args.yaml says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType


def module_for(words: Sequence[str]) -> ModuleType:
    """Who takes a command line: this module, or ``train_lidar`` where it is about a LiDAR detector.

    Raises: ValueError, FileNotFoundError where only ``--resume`` says what to train, and names no such run.
    """
    from . import train_lidar
    from .runs.resumed import args_file, check_command

    if train_lidar.is_meant(words):
        return train_lidar
    file = args_file(given_in(words), "vision")
    lidar = file is not None and check_command(file, "train") == train_lidar.DOMAIN
    return train_lidar if lidar else sys.modules[__name__]


def given_in(words: Sequence[str]) -> argparse.Namespace:
    """``config``, ``model`` and ``resume``, None where they are not given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", nargs="?")  # a value that is missing is the real parser's to tell
    parser.add_argument("--model", nargs="?")
    parser.add_argument("--resume", nargs="?")
    return parser.parse_known_args(words)[0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from .training.arguments import add_groups

    add_groups(parser)
    parser.epilog = "`linzoo train --detector NAME --help` shows the flags of LiDAR detectors."


def defaults_from(argv: Sequence[str], parser: argparse.ArgumentParser) -> dict:
    """What the recipe in ``argv`` (its ``--config``) says, as values by argument name.

    Without one: what the run says that ``--resume`` alone names, or nothing.
    """
    from .recipe import read_recipe
    from .runs.resumed import args_file, settings_in

    given = given_in(argv)
    if given.config is not None:
        return read_recipe(given.config, parser)
    file = args_file(given, "vision")
    return {} if file is None else settings_in(file, parser)


def run(args: argparse.Namespace) -> int:
    from .training.session import train

    return train(args)


if __name__ == "__main__":
    from linzoo.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
