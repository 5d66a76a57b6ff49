"""``linzoo bench scatterformer``: attention in windows of unequal length, packed against padded and looped.

Packed: ``linear_attn`` with offsets, windows cut into tiles. Padded: every window as long as the longest, one
batch of products (q, k, v gathered into it and back). Loop: one window after the other. One thread, process
CPU time, interleaved; the rivals' indices are made beforehand and not timed.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import bench_rows
from .bench_local_attn import with_backward
from .bench_rows import compared, interleaved, ratio_text

HEADS, DIM, EPS = 4, 32, 1e-6
# Occupied windows, their mean and longest length, in voxels: windows of 12 x 12 cells on a KITTI frame and on
# a nuScenes sweep, as measured once on real ones.
SHAPES = ((150, 40.0, 311), (362, 21.5, 261))
PASSES = ("forward", "training")
RESULTS = Path(__file__).parent / "results" / "scatterformer-cpu.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = " ".join(",".join(f"{n:g}" for n in s) for s in SHAPES)
    parser.add_argument(
        "--shape", action="append", metavar="WINDOWS,MEAN,LONGEST", help=f"repeatable; default: {names}"
    )
    parser.add_argument("--only", choices=PASSES, help="forward alone, or forward + backward alone")
    bench_rows.add_arguments(parser, RESULTS)


def run(args: argparse.Namespace) -> int:
    shapes = [parse_shape(s) for s in args.shape] if args.shape else SHAPES
    rows = (
        lambda words=(shape, kind): bench(*words, args.rounds)
        for shape in shapes
        for kind in ([args.only] if args.only else PASSES)
    )
    return bench_rows.run(args, "linzoo bench scatterformer --save", rows, line)


def parse_shape(text: str) -> tuple[int, float, int]:
    try:
        windows, mean, longest = text.split(",")
        shape = int(windows), float(mean), int(longest)
    except ValueError:
        shape = 0, 0.0, 0
    if not (shape[0] >= 1 and 1 < shape[1] < shape[2]):
        raise ValueError(f"--shape must be WINDOWS >= 1 and 1 < MEAN < LONGEST voxels, got {text!r}")
    return shape


def lengths_of(windows: int, mean: float, longest: int) -> Any:
    """(windows,) lengths, shuffled: quantiles of a power law that has this mean and maximum, at least 1."""
    import torch

    quantile = (torch.arange(windows, dtype=torch.float64) + 0.5) / windows
    lengths = (longest * quantile ** (longest / mean - 1)).round().long().clamp(min=1)
    lengths[-1] = longest
    return lengths[torch.randperm(windows, generator=torch.Generator().manual_seed(0))]


def bench(shape: tuple[int, float, int], kind: str, rounds: int) -> dict[str, Any]:
    """One row: every variant's times, how many times longer than ours each takes, and how far they differ."""
    import torch

    lengths = lengths_of(*shape)
    qkv = torch.randn(1, int(lengths.sum()), 3, HEADS, DIM)
    variants = {"eager": packed(lengths), "padded": padded(lengths), "loop": loop(lengths)}
    outputs = {name: call(qkv) for name, call in variants.items()}
    if kind == "training":
        variants = {name: with_backward(call) for name, call in variants.items()}
    times = interleaved({n: lambda call=c: call(qkv) for n, c in variants.items()}, rounds)
    row: dict[str, Any] = {"windows": len(lengths), "voxels": qkv.shape[1]}
    row |= {"mean": round(qkv.shape[1] / len(lengths), 1), "longest": int(lengths.max())}
    row |= {"H": HEADS, "D": DIM, "pass": kind, "rounds": rounds} | compared(times, "eager")
    row["padded_rows_over_voxels"] = round(len(lengths) * int(lengths.max()) / qkv.shape[1], 2)
    row["largest_difference"] = max(float((y - outputs["eager"]).abs().max()) for y in outputs.values())
    return row


def packed(lengths: Any) -> Callable[[Any], Any]:
    from ..kernels import linear_attn
    from ..kernels.segments import lengths_to_cu_seqlens

    words = {"feature": "relu", "eps": EPS, "eps_on": "sum", "backend": "eager"}
    cu_seqlens = lengths_to_cu_seqlens(lengths)
    return lambda qkv: linear_attn(*qkv.unbind(2), **words, cu_seqlens=cu_seqlens)


def padded(lengths: Any) -> Callable[[Any], Any]:
    """(1, N, 3, H, D) -> (1, N, H, D) by (windows, longest, ...) arrays with zeros behind short windows."""
    import torch

    longest = int(lengths.max())
    slot = (torch.arange(longest) < lengths.unsqueeze(1)).flatten().nonzero().flatten()

    def attend(qkv: Any) -> Any:
        rows = qkv.new_zeros(len(lengths) * longest, *qkv.shape[2:]).index_copy(0, slot, qkv[0])
        q, k, v = rows.unflatten(0, (-1, longest)).permute(2, 0, 3, 1, 4)  # (windows, H, longest, D)
        return attended(q, k, v).transpose(1, 2).flatten(0, 1)[slot].unsqueeze(0)

    return attend


def loop(lengths: Any) -> Callable[[Any], Any]:
    import torch

    sizes = lengths.tolist()

    def attend(qkv: Any) -> Any:
        windows = qkv[0].permute(1, 2, 0, 3).split(sizes, 2)  # (3, H, n, D) each
        return torch.cat([attended(*w).transpose(0, 1) for w in windows]).unsqueeze(0)

    return attend


def attended(q: Any, k: Any, v: Any) -> Any:
    """(..., n, D) three times -> (..., n, D), the formula in plain torch; zeros in k and v add nothing."""
    q, k = q.relu(), k.relu()
    return q @ (k.mT @ v) / (q @ k.sum(-2).unsqueeze(-1) + EPS)


def line(row: dict[str, Any]) -> str:
    own = row["ms"]["eager"]
    name = f"{row['windows']} windows, mean {row['mean']}, longest {row['longest']}"
    return (
        f"{name} {row['pass']}: {ratio_text(row)} | eager {own['median']} ms ({own['min']}-{own['max']}), "
        f"{row['voxels']} voxels, {row['padded_rows_over_voxels']} times as many padded"
    )
