"""``python -m linzoo.tools.NAME`` for tools that are no subcommand: parser, exit status, errors in a line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any


def main(
    name: str, about: str | None, add_arguments: Callable[[Any], None], run: Callable[[Any], int]
) -> int:
    """The exit status: 2 and a line on stderr where the request could not be served."""
    parser = argparse.ArgumentParser(
        prog=f"python -m linzoo.tools.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    args = parser.parse_args()
    try:
        return run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
