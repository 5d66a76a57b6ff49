"""Where the settings of a run come from: flags, and the recipe or the run that the command line names."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from . import resumed


def parse(
    words: Sequence[str], command: str, add_arguments: Callable[[argparse.ArgumentParser], None], domain: str
) -> argparse.Namespace:
    """The words behind ``linzoo <command>`` as its arguments, recipe included.

    Args:
        domain: the folder of the command's packaged recipes.
    """
    parser = argparse.ArgumentParser(prog=f"linzoo {command}")
    add_arguments(parser)
    parser.set_defaults(**recipe_defaults(words, parser, domain))
    return parser.parse_args(words)


def defaults_from(
    argv: Sequence[str], parser: argparse.ArgumentParser, command: str, domain: str
) -> dict[str, Any]:
    """``recipe_defaults`` of a command line that has the command's own name too."""
    return recipe_defaults(own_words(argv, command), parser, domain)


def recipe_defaults(words: Sequence[str], parser: argparse.ArgumentParser, domain: str) -> dict[str, Any]:
    """What the recipe in ``words`` says, as values by argument name.

    Without one: what the run says that ``--resume`` alone names, or nothing.
    Raises: ValueError, OSError for a recipe or a run that cannot be taken.
    """
    from ..recipe import read_recipe

    given, unknown = parser.parse_known_args(words)
    if any(word.startswith("-") for word in unknown):
        return {}  # the parser will name the flag; what follows it looked like a recipe
    if given.config is not None:
        return read_recipe(given.config, parser, domain)
    file = resumed.args_file(given, domain)
    if file is None:
        return {}
    resumed.check_command(file, resumed.KINDS[domain].command)
    return resumed.settings_in(file, parser)


def own_words(argv: Sequence[str], command: str) -> list[str]:
    """The command line without the command's name, which a parser of its own would take for a recipe."""
    words = list(argv)
    words.remove(command)
    return words
