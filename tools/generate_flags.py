"""The flags of ``linzoo generate``, read and checked before any model is."""

from __future__ import annotations

import argparse
import ast
from typing import Any

SUFFIXES = (".png", ".tif", ".tiff")
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def wanted_size(args: argparse.Namespace) -> tuple[int | None, int | None]:
    """(height, width). Raises: ValueError."""
    if args.size is None:
        pair = (args.height, args.width)
        if (args.height is None) != (args.width is None):
            raise ValueError("--height and --width go together")
    else:
        if args.height is not None or args.width is not None:
            raise ValueError("--size stands for --height and --width: give one or the other")
        sides = args.size.lower().split("x")
        if len(sides) != 2 or not all(side.isdecimal() for side in sides):
            raise ValueError(f"--size must be WIDTHxHEIGHT, such as 8192x4096, got {args.size!r}")
        pair = (int(sides[1]), int(sides[0]))
    for flag, side in zip(("--height", "--width"), pair, strict=True):
        if side is not None and side < 1:
            raise ValueError(f"{flag} must be at least 1, got {side}")
    return pair


def memory_bytes(text: str) -> str | int | None:
    """ "auto", a number of bytes, or None for "none". Raises: ValueError."""
    if text in ("auto", "none"):
        return None if text == "none" else text
    number = text.rstrip("BKMGTIbkmgti")
    unit = text[len(number) :].upper()
    try:
        value = int(float(number) * UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        value = 0
    if value < 1:
        raise ValueError(f"--memory must be auto, none or bytes (24GB, 16GiB, 8e9), got {text!r}")
    return value


def parse_option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"--options must be NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def check(args: argparse.Namespace, options: dict[str, Any]) -> None:
    """Raises: ValueError or FileNotFoundError for flags that do not go together, before a model is read."""
    if args.output.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--output must end in {', '.join(SUFFIXES)}, got {args.output}")
    if args.method is None and (args.weights or options):
        raise ValueError(f"{'--weights' if args.weights else '--options'} needs --method")
    if args.steps is not None and args.steps < 1:
        raise ValueError(f"--steps must be at least 1, got {args.steps}")
    if args.ladder and args.super_resolution:
        raise ValueError("--ladder starts from the prompt, --super-resolution from a picture: give one")
    climbs = args.ladder or args.super_resolution
    for flag, value in (
        ("--strengths", args.strengths),
        ("--factor", args.factor),
        ("--resume", args.resume),
    ):
        if value and not climbs:
            raise ValueError(f"{flag} needs --ladder or --super-resolution")
    if args.ladder == "linfusion" and (args.strengths or args.factor):
        raise ValueError(
            "--ladder linfusion has its own strengths and doubles: --strengths and --factor have no use"
        )
    if args.super_resolution and not args.super_resolution.is_file():
        raise FileNotFoundError(
            f"--super-resolution must be a picture file, {args.super_resolution} is not there"
        )
