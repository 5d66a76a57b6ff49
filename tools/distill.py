"""``linzoo distill``: train a swapped diffusion model against its original, from a recipe.

Alone, or in K processes: ``accelerate launch -m linzoo distill ...`` (or torchrun). Flags win over a recipe.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from .distillation.arguments import add_groups

    add_groups(parser)


def defaults_from(argv: Sequence[str], parser: argparse.ArgumentParser) -> dict:
    """What the recipe in ``argv`` says, as values by argument name; empty without one.

    Args:
        argv: the command line, the command's own name included.
    """
    words = list(argv)
    words.remove("distill")
    return recipe_defaults(words, parser)


def recipe_defaults(words: Sequence[str], parser: argparse.ArgumentParser) -> dict:
    from .recipe import read_recipe

    config = parser.parse_known_args(words)[0].config
    return {} if config is None else read_recipe(config, parser, "diffusion")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The words behind ``linzoo distill`` as its arguments, recipe included: for use from Python."""
    parser = argparse.ArgumentParser(prog="linzoo distill")
    add_arguments(parser)
    parser.set_defaults(**recipe_defaults(words, parser))
    return parser.parse_args(words)


def run(args: argparse.Namespace) -> int:
    from .distillation.session import distill
    from .training.loop import Diverged

    try:
        finished = distill(args)
    except Diverged as error:
        print(f"linzoo distill: {error}", file=sys.stderr)
        return 1
    if finished.primary:
        print(f"linzoo distill: {finished.folder}")
    return 0


if __name__ == "__main__":
    from linzoo.cli import main

    sys.exit(main(["distill", *sys.argv[1:]]))
