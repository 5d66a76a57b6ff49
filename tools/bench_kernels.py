"""``linzoo bench kernels``: eager linear attention against upstream's formula and softmax, on one thread.

Process CPU time, all variants interleaved in one process, one warm-up round, median over the rounds; a ratio
is the median of the rounds' own ratios, so that a slow spell of the machine hits both sides. The machine's
peaks are read before and after; ``--save`` keeps the rows only when the two readings agree within 15 %.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SHAPES = ((8, 8, 3136, 32), (1, 8, 16384, 40), (1, 10, 65536, 64), (1, 24, 16384, 128))  # B, H, N, D
DTYPES = ("float32", "bfloat16")
PASSES = ("forward", "training")  # training: forward and backward
RESULTS = Path(__file__).parent / "results" / "kernels-cpu.jsonl"
DRIFT = 0.15
SOFTMAX_ROUNDS = 2  # it takes seconds to minutes a call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = [shape_name(s) for s in SHAPES]
    parser.add_argument(
        "--shape", action="append", metavar="B,H,N,D", help=f"repeatable; default: {' '.join(names)}"
    )
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="repeatable; default: both")
    parser.add_argument("--only", choices=PASSES, help="forward alone, or forward + backward alone")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default 5, at least 5 to save)")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave out torch.compile (it takes a minute)"
    )
    parser.add_argument("--no-softmax", action="store_true", help="leave out softmax attention")
    parser.add_argument(
        "--save", action="store_true", help=f"replace the rows in {RESULTS.name} when all went well"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="where --save writes")


def run(args: argparse.Namespace) -> int:
    import torch

    from . import kernel_rivals
    from .demo.machine import commit, processor

    shapes = [parse_shape(s) for s in args.shape] if args.shape else SHAPES
    if args.rounds < 1 or (args.save and args.rounds < 5):
        raise ValueError(f"--rounds must be >= 1, and >= 5 with --save, got {args.rounds}")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    before = kernel_rivals.peaks(fastest)
    print(f"{processor()} {flags()} | torch {torch.__version__} | 1 thread, CPU time | commit {commit()}")
    print("peaks: " + ", ".join(f"{name} {value:.1f}" for name, value in before.items()))
    rows = []
    for shape in shapes:
        for dtype in args.dtype or DTYPES:
            for kind in [args.only] if args.only else PASSES:
                rows.append(bench(shape, dtype, kind, args))
                print(line(rows[-1]), flush=True)
    after = kernel_rivals.peaks(fastest)
    drift = max(abs(after[name] / value - 1) for name, value in before.items())
    print(f"peaks moved by {drift:.0%} during the run")
    if not args.save:
        return 0
    if drift > DRIFT:
        print(f"not saved: the machine's peaks moved by more than {DRIFT:.0%}; run again when it is quiet")
        return 1
    save(args.out, rows, before, after)
    return 0


def shape_name(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape))


def parse_shape(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) != 4 or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"--shape must be four sizes B,H,N,D > 0, got {text!r}")
    return tuple(int(part) for part in parts)


def fastest(run: Callable[[], object], rounds: int = 5) -> float:
    run()
    return min(cpu_seconds(run) for _ in range(rounds))


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


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
    row["ratio"] = {
        name: spread(ratios(t, times["eager"]), 2) for name, t in times.items() if name != "eager"
    }
    row["ms"] = {name: spread([1e3 * x for x in t], 1) for name, t in times.items()}
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


def ratios(rival: list[float], own: list[float]) -> list[float]:
    return [a / b for a, b in zip(rival, own, strict=False)]


def spread(values: list[float], digits: int) -> dict[str, float]:
    return {
        name: round(pick(values), digits)
        for name, pick in (("median", statistics.median), ("min", min), ("max", max))
    }


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


def flags() -> list[str]:
    """The vector extensions that decide how fast matrix products are here."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in words]


def save(out: Path, rows: list[dict[str, Any]], before: dict[str, float], after: dict[str, float]) -> None:
    import torch

    from .demo.machine import commit, processor
    from .files import write_atomic

    common = {
        "command": "linzoo bench kernels --save",
        "commit": commit(),
        "device": processor(),
        "flags": flags(),
        "torch": torch.__version__,
        "threads": 1,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "peaks_before": {name: round(value, 2) for name, value in before.items()},
        "peaks_after": {name: round(value, 2) for name, value in after.items()},
    }
    write_atomic(out, "".join(json.dumps(row | common) + "\n" for row in rows).encode())
    print(f"{len(rows)} rows written to {out}")
