"""``linzoo bench diffusion``: one denoising step of real-width models, softmax against linear attention.

Each point is MODEL:ATTENTION:SIZE, in a process of its own, one thread, float32, random weights. ``sd15`` is
Stable Diffusion 1.5's UNet (softmax, linfusion), ``flux_pair`` one joint and one single block of FLUX
(softmax, clear with radius 8).
"""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .files import read_rows, write_rows

RESULTS = Path(__file__).parent / "results" / "diffusion-steps.jsonl"
POINTS = ("sd15:linfusion:2048", "sd15:softmax:2048", "flux_pair:clear:2048", "flux_pair:softmax:2048")
ATTENTIONS = {"sd15": ("softmax", "linfusion"), "flux_pair": ("softmax", "clear")}
STEP = 64  # pixels that a side must divide


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("point", nargs="*", help=f"MODEL:ATTENTION:SIZE (default: {' '.join(POINTS)}, 17 CPU minutes in all)")
    add(
        "--measures",
        nargs="*",
        default=[],
        help="of linzoo.diffusion.memory, for points that do not fit else",
    )
    add("--save", action="store_true", help=f"put the rows into {RESULTS.name}, each when it is there")
    add("--out", type=Path, default=RESULTS, help="where --save writes")


def run(args: argparse.Namespace) -> int:
    requests = [request_of(point) for point in args.point or POINTS]
    if args.measures:
        requests = [request | {"measures": check(args.measures)} for request in requests]
    from .demo.worker import run_worker

    for request in requests:
        load = os.getloadavg()[0]
        row = run_worker("linzoo.tools.demo.diffusion_scaling_point", request)
        print(line(row), flush=True)
        if args.save:
            save(args.out, row | {"load": round(load, 1)} | about(request))
    return 0


def request_of(point: str) -> dict[str, Any]:
    """``sd15:linfusion:2048`` -> the point's request. Raises: ValueError."""
    model, _, rest = point.partition(":")
    attention, _, size = rest.partition(":")
    if attention not in ATTENTIONS.get(model, ()):
        known = ", ".join(f"{m}:{a}" for m, attentions in ATTENTIONS.items() for a in attentions)
        raise ValueError(f"point must start with one of {known}, got {point!r}")
    if not size.isdecimal() or int(size) < STEP or int(size) % STEP:
        raise ValueError(f"the size of a point must be a multiple of {STEP} pixels, got {point!r}")
    return {"model": model, "attention": attention, "size": int(size)}


def check(measures: list[str]) -> list[str]:
    """Raises: ValueError."""
    from linzoo.diffusion.memory.planner import check_measures

    return list(check_measures(measures))


def line(row: dict[str, Any]) -> str:
    return (
        f"{row['model']:<10} {row['attention']:<10} {row['size']:5d} px  {row['seconds']:8.1f} CPU s  "
        f"{row['megabytes'] / 1e3:6.2f} GB ({row['predicted'] / 1e3:.2f} predicted) over "
        f"{row['weights'] / 1e3:.2f} GB of weights"
    )


def about(request: dict[str, Any]) -> dict[str, Any]:
    """What a row says of its making; ``load`` of the machine beside it tells how alone it was."""
    from importlib.metadata import version

    from .demo.machine import commit, processor

    return {
        "command": command_of(request),
        "device": processor(),
        "commit": commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "torch": version("torch"),
        "diffusers": version("diffusers"),
    }


def command_of(row: dict[str, Any]) -> str:
    measures = "".join(f" {name}" for name in row.get("measures", ()))
    point = ":".join(map(str, key(row)))
    return f"linzoo bench diffusion {point}{' --measures' + measures if measures else ''} --save"


def read(path: Path = RESULTS) -> list[dict[str, Any]]:
    """The recorded rows; none where there is no file."""
    return read_rows(path)


def key(row: dict[str, Any]) -> tuple:
    return row["model"], row["attention"], row["size"]


def save(path: Path, row: dict[str, Any]) -> None:
    """The row into its place among the others, instead of an older one of the same point."""
    write_rows(path, sorted([*(r for r in read(path) if key(r) != key(row)), row], key=key))
