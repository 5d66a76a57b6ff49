"""``linzoo bench pointcloud``: LION's operators and whole backbones against the number of voxels, on a CPU.

An operator: one block at 64 channels over the groups that block 1 of the published forms makes, 4096 voxels
each, the last one filled up by voxels that come twice; and ScatterFormer's attention in windows of 12 x 12
cells, at the same width. The order of the voxels is made beforehand. A backbone: a detector's whole 3D
backbone in evaluation mode, orders and pair lists included. Random weights, float32, one thread, process CPU
time, everything of one size interleaved. The voxels are rough ground with boxes, about 7 neighbours each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import bench_rows
from .bench_local_attn import with_backward
from .bench_rows import interleaved, spread
from .files import read_rows

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..pointcloud.voxels import Voxels

WHAT = ("operators", "backbones")
SIZES = (5_000, 20_000, 60_000)
PASSES = ("forward", "training")
OPERATORS = ("retnet", "mamba", "rwkv", "mlstm", "ttt", "linear", "gated")
WINDOWED = "scatterformer"  # among the operators: attention in windows, not over groups
BACKBONES = (*(f"lion_{operator}_kitti" for operator in OPERATORS), "scatterformer_waymo")
CHANNELS, GROUP, WINDOW = 64, 4096, 12
RESULTS = Path(__file__).parent / "results" / "pointcloud-cpu.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--what", choices=WHAT, help="one of the two; --save keeps the rows of what is not measured")
    add("--voxels", action="append", type=int, metavar="N", help=f"repeatable; default: {SIZES}")
    add("--pass", dest="kind", choices=PASSES, default="forward", help="training: forward and backward")
    add("--only", action="append", metavar="NAME", help="operators or backbones, repeatable; default: all")
    bench_rows.add_arguments(parser, RESULTS)


def run(args: argparse.Namespace) -> int:
    sizes = tuple(args.voxels or SIZES)
    if min(sizes) < 1:
        raise ValueError(f"--voxels must be >= 1, got {min(sizes)}")
    names = chosen(args.what, args.only)
    rows = (
        lambda words=(what, found, size): bench(*words, args.kind, args.rounds)
        for what, found in names.items()
        for size in sizes
    )
    words = f" --what {args.what}" if args.what else ""
    words += "".join(f" --voxels {size}" for size in args.voxels or ())
    new = {(what, size, args.kind) for what in names for size in sizes}
    kept = [row for row in recorded(args.out) if (row["what"], row["voxels"], row["pass"]) not in new]
    return bench_rows.run(args, f"linzoo bench pointcloud{words} --save", rows, line, kept)


def chosen(what: str | None, only: list[str] | None) -> dict[str, tuple[str, ...]]:
    """What is timed, by kind.

    Raises: ValueError for a name that is none.
    """
    known = {"operators": (*OPERATORS, WINDOWED), "backbones": BACKBONES}
    names = {kind: known[kind] for kind in ([what] if what else WHAT)}
    if only is None:
        return names
    allowed = [name for kind in names.values() for name in kind]
    if unknown := [name for name in only if name not in allowed]:
        raise ValueError(f"--only must be of {', '.join(allowed)}, got {unknown[0]}")
    found = {kind: tuple(name for name in of if name in only) for kind, of in names.items()}
    return {kind: of for kind, of in found.items() if of}


def bench(what: str, names: tuple[str, ...], voxels: int, kind: str, rounds: int) -> dict[str, Any]:
    """One row: the times of all ``names`` on so many voxels."""
    make = operator_calls if what == "operators" else backbone_calls
    calls = make(voxels, names, kind)
    times = interleaved(calls, rounds)
    row: dict[str, Any] = {"what": what, "voxels": voxels, "pass": kind, "rounds": rounds}
    if what == "operators":
        row |= {"channels": CHANNELS, "group": GROUP, "window": WINDOW}
    return row | {"ms": {name: spread([1e3 * t for t in found], 1) for name, found in times.items()}}


def operator_calls(
    voxels: int, names: tuple[str, ...], kind: str = "forward", group: int = GROUP
) -> dict[str, Callable[[], object]]:
    """One call a name. group: voxels of a sequence."""
    from ..pointcloud.lion.grouping import group as grouped
    from ..pointcloud.lion.operators import make_operator
    from ..pointcloud.lion.variants import FORMS
    from ..pointcloud.lion.variants import OPERATORS as WORDS
    from ..pointcloud.scatterformer.attention import ScatteredLinearAttention, by_window

    form = FORMS["kitti"]
    street = drawn(voxels, form.grid.shape, CHANNELS)
    tokens = grouped(street, form.windows[0], group, axis="x").tokens(street.features)
    calls: dict[str, Callable[[], object]] = {}
    for name in names:
        if name == WINDOWED:
            rows, cu_seqlens = by_window(street, WINDOW)
            attend = ScatteredLinearAttention(CHANNELS, CHANNELS // 32)
            calls[name] = passed(attend, rows.features, kind, cu_seqlens)
        else:
            block = make_operator(name, CHANNELS, 0, 1, **WORDS.get(name, {}))
            calls[name] = passed(block, tokens, kind)
    return calls


def backbone_calls(
    voxels: int, names: tuple[str, ...], kind: str = "forward"
) -> dict[str, Callable[[], object]]:
    """One call a name, each on voxels of its own grid."""
    calls: dict[str, Callable[[], object]] = {}
    for name in names:
        backbone, width, shape = built(name)
        street = drawn(voxels, shape, width)
        calls[name] = passed(over(backbone, street), street.features, kind)
    return calls


def built(name: str) -> tuple[nn.Module, int, tuple[int, int, int]]:
    """A backbone in evaluation mode, the width of what it takes, and its grid."""
    from ..pointcloud.lion.variants import VARIANTS as LION
    from ..pointcloud.scatterformer.variants import VARIANTS as SCATTERFORMER

    if name in SCATTERFORMER:
        config = SCATTERFORMER[name]
        width = config.channels_in
    else:
        operator = name.split("_")[1]  # linear and gated have no published form
        config = LION.get(name) or replace(LION["lion_retnet_kitti"], operator=operator)
        width = config.channels
    return config.build().eval(), width, config.grid.shape


def over(backbone: nn.Module, street: Voxels) -> Callable[[Tensor], Tensor]:
    """Features -> features, nothing about the voxels known from an earlier call."""
    return lambda features: backbone(replace(street, features=features, cache={})).features


def drawn(voxels: int, shape: tuple[int, int, int], channels: int) -> Voxels:
    """One frame of ``street_cells`` with random features."""
    import torch

    from ..pointcloud.voxels import Voxels
    from .bench_pointcloud_cells import street_cells

    features = torch.randn(voxels, channels, generator=torch.Generator().manual_seed(0))
    return Voxels(features=features, coords=street_cells(voxels, shape), shape=shape, batch_size=1)


def passed(call: Callable[..., Tensor], x: Tensor, kind: str, *others: Tensor) -> Callable[[], object]:
    """Forward without gradients, or forward and backward to ``x`` and whatever the call holds."""
    import torch

    def forward() -> object:
        with torch.inference_mode():
            return call(x, *others)

    if kind == "forward":
        return forward
    step = with_backward(lambda rows: call(rows, *others))
    return lambda: step(x)


def recorded(results: Path = RESULTS) -> list[dict]:
    """The committed rows, none where there are none yet."""
    return read_rows(results)


def line(row: dict[str, Any]) -> str:
    head = f"{row['voxels']:,} voxels, {row['what']}, {row['pass']}:"
    parts = (f"{n} {t['median']:g} ms ({t['min']:g}-{t['max']:g})" for n, t in row["ms"].items())
    return f"{head} {', '.join(parts)}"
