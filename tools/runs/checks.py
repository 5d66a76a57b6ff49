"""Numbers that flags must hold."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from math import isfinite

from ..training.checks import flag


def check_least(args: argparse.Namespace, names: Iterable[str], least: int) -> None:
    """Raises: ValueError naming the flag whose number is below ``least``, infinite or NaN; None is none."""
    for name in names:
        value = getattr(args, name)
        if value is not None and not (value >= least and isfinite(value)):
            raise ValueError(f"{flag(name)} must be at least {least}, got {value}")
