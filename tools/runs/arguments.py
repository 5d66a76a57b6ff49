"""The arguments that every run counted in optimizer updates takes."""

import argparse
from collections.abc import Callable, Iterable

from ..training.argument_kinds import Group, KeyValues


def key_values(group: Group, name: str, text: str) -> None:
    group.add_argument(f"--{name}", nargs="*", default={}, action=KeyValues, metavar="K=V", help=text)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    text = "a recipe: a packaged name or a .toml file"
    parser.add_argument("config", nargs="?", default=argparse.SUPPRESS, metavar="RECIPE", help=text)
    parser.add_argument("-c", "--config", metavar="RECIPE", help="the same")


def add_all(parser: argparse.ArgumentParser, groups: Iterable[tuple[str, Callable[[Group], None]]]) -> None:
    """The recipe, and every group under its title."""
    add_recipe(parser)
    for title, fill in groups:
        fill(parser.add_argument_group(title))


def add_device(group: Group) -> None:
    add = group.add_argument
    add("--device", default="auto", choices=("auto", "cpu"), help="auto: an accelerator where there is one")
    add("--mixed-precision", default="no", choices=("no", "fp16", "bf16"), help="default no")


def add_run(group: Group, *, output: str, save_interval: int) -> None:
    """Seed, folder and log.

    Args:
        output: folder of the runs by default.
        save_interval: updates between checkpoints by default.
    """
    add = group.add_argument
    add("--seed", type=int, default=42, metavar="N", help="default 42")
    add("--output", default=output, metavar="DIR", help=f"folder of the runs ({output})")
    add("--experiment", default="", metavar="NAME", help="this run's folder in it (default: time, recipe)")
    add("--resume", default="", metavar="RUN", help="go on: a run's folder (alone: as it began), or 'auto'")
    add("--report-to", default="none", choices=("none", "tensorboard"), help="default none")
    add("--log-interval", type=int, default=10, metavar="N", help="updates between log lines (10)")
    text = f"updates between checkpoints ({save_interval})"
    add("--save-interval", type=int, default=save_interval, metavar="N", help=text)
