"""``linzoo train``: train or fine-tune any timm model, with the flags of timm's train.py.

Alone, or in K processes: ``torchrun --nproc-per-node K -m linzoo train ...``. Flags win over a recipe. A
recipe of ``configs/pointcloud``, or ``--detector NAME``, trains a LiDAR detector: see train_lidar.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType


def module_for(words: Sequence[str]) -> ModuleType:
    """Who takes a command line: this module, or ``train_lidar`` where it is about a LiDAR detector."""
    from . import train_lidar

    return train_lidar if train_lidar.is_meant(words) else sys.modules[__name__]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from .training.arguments import add_groups

    add_groups(parser)
    parser.epilog = "`linzoo train --detector NAME --help` shows the flags of LiDAR detectors."


def defaults_from(argv: Sequence[str], parser: argparse.ArgumentParser) -> dict:
    """What the recipe in ``argv`` (its ``--config``) says, as values by argument name; empty without one."""
    only_config = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    only_config.add_argument("-c", "--config")
    config = only_config.parse_known_args(argv)[0].config
    if config is None:
        return {}
    from .recipe import read_recipe

    return read_recipe(config, parser)


def run(args: argparse.Namespace) -> int:
    from .training.session import train

    return train(args)


if __name__ == "__main__":
    from linzoo.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
