"""``linzoo bench kernels``: eager linear attention against upstream's formula and softmax, on one thread.

Process CPU time, all variants interleaved in one process, one warm-up round, median over the rounds; a ratio
is the median of the rounds' own ratios, so that a slow spell of the machine hits both sides. The machine's
peaks are read before and after; ``--save`` keeps the rows only when the two readings agree within 15 %.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import bench_rows
from .bench_rows import compared, cpu_seconds

SHAPES = ((8, 8, 3136, 32), (1, 8, 16384, 40), (1, 10, 65536, 64), (1, 24, 16384, 128))  # B, H, N, D
DTYPES = ("float32", "bfloat16")
PASSES = ("forward", "training")  # training: forward and backward
RESULTS = Path(__file__).parent / "results" / "kernels-cpu.jsonl"
SOFTMAX_ROUNDS = 2  # it takes seconds to minutes a call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = [shape_name(s) for s in SHAPES]
    parser.add_argument(
        "--shape", action="append", metavar="B,H,N,D", help=f"repeatable; default: {' '.join(names)}"
    )
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="repeatable; default: both")
    parser.add_argument("--only", choices=PASSES, help="forward alone, or forward + backward alone")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave out torch.compile (it takes a minute)"
    )
    parser.add_argument("--no-softmax", action="store_true", help="leave out softmax attention")
    bench_rows.add_arguments(parser, RESULTS)


def run(args: argparse.Namespace) -> int:
    shapes = [parse_shape(s) for s in args.shape] if args.shape else SHAPES
    rows = (
        lambda words=(shape, dtype, kind): bench(*words, args)
        for shape in shapes
        for dtype in args.dtype or DTYPES
        for kind in ([args.only] if args.only else PASSES)
    )
    return bench_rows.run(args, "linzoo bench kernels --save", rows, line)


def shape_name(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape))


def parse_shape(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) != 4 or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"--shape must be four sizes B,H,N,D > 0, got {text!r}")
    return tuple(int(part) for part in parts)


def bench(shape: tuple[int, ...], dtype: str, kind: str, args: argparse.Namespace) -> dict[str, Any]:
    """One row: every variant's times on one shape, and how many times longer than ours each takes."""
    import torch

    from . import kernel_rivals as rivals

    batch, heads, tokens, width = shape
    qkv = torch.randn(batch, tokens, 3 * heads * width).to(getattr(torch, dtype))
    variants = {"eager": rivals.ours, "upstream": rivals.upstream, "rewrite": rivals.rewrite}
    if kind == "training":
        variants = {name: rivals.with_backward(call) for name, call in variants.items()}
    elif not args.no_compile:
        variants["compiled_rewrite"] = rivals.compiled_rewrite()
    scale = dict.fromkeys(variants, 1.0)
    if kind == "forward" and not args.no_softmax:
        variants["softmax"] = rivals.softmax
        scale["softmax"] = tokens / rivals.softmax_queries(tokens)
    times = interleaved(variants, qkv, heads, args.rounds, scale)
    row: dict[str, Any] = {"shape": dict(zip("BHND", shape, strict=True)), "dtype": dtype, "pass": kind}
    row |= compared(times, "eager")
    row["rounds"] = args.rounds
    if kind == "forward":
        output = batch * heads * tokens * width * qkv.element_size()
        row["allocated_over_output"] = round(
            rivals.allocated_bytes(lambda: rivals.ours(qkv, heads)) / output, 3
        )
        if "softmax" in times and scale["softmax"] > 1:
            row["softmax_scaled_from_queries"] = rivals.SDPA_QUERIES
    return row


def interleaved(
    variants: dict[str, Callable], qkv: Any, heads: int, rounds: int, scale: dict[str, float]
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(rounds + 1):  # the first round warms up
        for name, call in variants.items():
            if name == "softmax" and i > SOFTMAX_ROUNDS:
                continue
            seconds = cpu_seconds(lambda call=call: call(qkv, heads))
            if i:
                times[name].append(scale[name] * seconds)
    return times


def line(row: dict[str, Any]) -> str:
    """Ratios first: how many times longer than ours, with their spread; then our time."""
    parts = [
        f"{name} {r['median']:.2f}x ({r['min']:.2f}-{r['max']:.2f})" + ("*" if star else "")
        for name, r in row["ratio"].items()
        for star in [name == "softmax" and "softmax_scaled_from_queries" in row]
    ]
    own = row["ms"]["eager"]
    text = f"{shape_name(tuple(row['shape'].values())):>16} {row['dtype']:>8} {row['pass']:>8}: " + ", ".join(
        parts
    )
    text += f" | eager {own['median']} ms ({own['min']}-{own['max']})"
    if "allocated_over_output" in row:
        text += f", allocates {row['allocated_over_output']:.2f}x its output"
    return text + (" | * scaled from 2,048 queries" if "softmax_scaled_from_queries" in row else "")
