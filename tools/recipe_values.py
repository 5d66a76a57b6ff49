"""Whether a value from a recipe is one that a flag can take, and the value as the flag would give it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SWITCHES = (argparse._StoreTrueAction, argparse._StoreFalseAction, argparse.BooleanOptionalAction)


def fitting(action: argparse.Action, value: Any, lenient: bool = False) -> Any:
    """``value`` as ``action`` would store it.

    Args:
        lenient: as timm's YAML has it: null stands for the default's None, and a number may be a string
            (YAML 1.1 takes ``5e-4`` for one).
    Raises: ValueError, a phrase that goes on after the key: "must be ..., got ...".
    """
    if value is None:
        if lenient and action.default is None:
            return None
        raise ValueError("must have a value, got null")
    if isinstance(action, SWITCHES):
        return _checked(isinstance(value, bool), value, "true or false", value)
    if isinstance(action.default, dict):
        return dict(_checked(isinstance(value, Mapping), value, "a table of names and values", value))
    if isinstance(value, Mapping):
        raise ValueError(f"must be {_kind(action)}, got a table")
    if action.nargs == "?" and isinstance(value, bool) and action.const is not None:
        return action.const if value else action.default
    if isinstance(action.nargs, int) or action.nargs in ("+", "*"):
        return _many(action, value, lenient)
    return _one(action, value, lenient)


def _many(action: argparse.Action, value: Any, lenient: bool) -> list:
    expected = f"a list of {action.nargs} values" if isinstance(action.nargs, int) else "a list"
    whole = isinstance(value, (list, tuple))
    if not whole or (isinstance(action.nargs, int) and len(value) != action.nargs):
        raise ValueError(f"must be {expected}, each {_kind(action)}, got {value!r}")
    if action.nargs == "+" and not value:
        raise ValueError(f"must be {expected} of at least one value, got {value!r}")
    return [_one(action, entry, lenient) for entry in value]


def _one(action: argparse.Action, value: Any, lenient: bool) -> Any:
    if isinstance(value, (bool, list, tuple)):
        raise ValueError(f"must be {_kind(action)}, got {_shown(value)}")
    if action.type in (int, float):
        value = _number(action, value, lenient)
    elif action.type in (None, str, Path):
        text = _checked(isinstance(value, str), value, _kind(action), value)
        value = text if action.type is None else action.type(text)
    else:  # a function of the flag's text
        try:
            value = action.type(str(value))
        except (argparse.ArgumentTypeError, ValueError, TypeError) as error:
            raise ValueError(f"must be what --{action.dest.replace('_', '-')} takes: {error}") from error
    if action.choices is not None and value not in action.choices:
        raise ValueError(f"must be one of {', '.join(map(str, action.choices))}, got {value!r}")
    return value


def _number(action: argparse.Action, value: Any, lenient: bool) -> int | float:
    if lenient and isinstance(value, str):
        try:
            return action.type(value)
        except ValueError as error:
            raise ValueError(f"must be {_kind(action)}, got {value!r}") from error
    accepted = (int,) if action.type is int else (int, float)
    return action.type(_checked(isinstance(value, accepted), value, _kind(action), value))


def _checked(right: bool, value: Any, expected: str, result: Any) -> Any:
    if not right:
        raise ValueError(f"must be {expected}, got {_shown(value)}")
    return result


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _kind(action: argparse.Action) -> str:
    if action.type in (int, float):
        return {int: "a whole number", float: "a number"}[action.type]
    return "a string" if action.type in (None, str, Path) else "a value"
