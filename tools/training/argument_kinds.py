"""Kinds of arguments that argparse lacks."""

import argparse
import ast
from collections.abc import Sequence
from typing import Any

Group = argparse._ArgumentGroup


class KeyValues(argparse.Action):
    """``a=1 b=x c=(2,3)`` as a dict; values are Python literals, anything else stays a string."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str] | Any,
        option_string: str | None = None,
    ) -> None:
        pairs = {}
        for word in values:
            key, equals, text = word.partition("=")
            if not equals or not key:
                raise argparse.ArgumentError(self, f"must be KEY=VALUE, got {word!r}")
            try:
                pairs[key] = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                pairs[key] = text
        setattr(namespace, self.dest, pairs)


def switch(group: Group, name: str, text: str) -> None:
    """``--name``, and ``--no-name`` against a recipe; timm's own ``--no-...`` have no opposite."""
    action = "store_true" if name.startswith("no-") else argparse.BooleanOptionalAction
    group.add_argument(f"--{name}", action=action, default=False, help=text)
