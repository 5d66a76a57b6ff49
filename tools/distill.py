"""``linzoo distill``: train a swapped diffusion model against its original, from a recipe.

Alone, or in K processes: ``accelerate launch -m linzoo distill ...`` (or torchrun). Flags win over a recipe.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .runs import settings

DOMAIN = "diffusion"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from .distillation.arguments import add_groups

    add_groups(parser)


def defaults_from(argv: Sequence[str], parser: argparse.ArgumentParser) -> dict:
    """What the recipe in ``argv`` says, as values by argument name; empty without one.

    Args:
        argv: the command line, the command's own name included.
    """
    return settings.defaults_from(argv, parser, "distill", DOMAIN)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The words behind ``linzoo distill`` as its arguments, recipe included: for use from Python."""
    return settings.parse(words, "distill", add_arguments, DOMAIN)


def run(args: argparse.Namespace) -> int:
    from .distillation.session import distill
    from .runs.ending import exit_status

    return exit_status("distill", distill, args)


if __name__ == "__main__":
    from linzoo.cli import main

    sys.exit(main(["distill", *sys.argv[1:]]))
