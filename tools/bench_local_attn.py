"""``linzoo bench local-attn``: eager local attention against compiled FlexAttention and full softmax.

One thread, process CPU time, all variants interleaved in one process, one warm-up round; a ratio is the
median of the rounds' own ratios. FlexAttention has its tokens in raster order and its usual blocks of 128.
"""

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .bench_kernels import DRIFT, cpu_seconds, fastest, flags, ratios, spread

# Heads, grid height and width, text tokens, width D.
SHAPES = ((4, 64, 64, 128, 64), (2, 128, 128, 128, 64), (24, 64, 64, 512, 128))
RADIUS = 8
RESULTS = Path(__file__).parent / "results" / "local-attn-cpu.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = " ".join(",".join(map(str, s)) for s in SHAPES)
    parser.add_argument(
        "--shape", action="append", metavar="H,HEIGHT,WIDTH,TEXT,D", help=f"repeatable; default: {names}"
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default 5, at least 5 to save)")
    parser.add_argument(
        "--training", action="store_true", help="forward and backward (without FlexAttention)"
    )
    parser.add_argument(
        "--no-flex", action="store_true", help="leave out FlexAttention (a minute to compile)"
    )
    parser.add_argument("--save", action="store_true", help=f"replace the rows in {RESULTS.name}")
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
    rows = []
    for shape in shapes:
        rows.append(bench(shape, args))
        print(line(rows[-1]), flush=True)
    after = kernel_rivals.peaks(fastest)
    drift = max(abs(after[name] / value - 1) for name, value in before.items())
    print(f"peaks moved by {drift:.0%} during the run")
    if not args.save:
        return 0
    if drift > DRIFT:
        print(f"not saved: the machine's peaks moved by more than {DRIFT:.0%}; run again when it is quiet")
        return 1
    save(args.out, rows, {"peaks_before": before, "peaks_after": after})
    return 0


def parse_shape(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) != 5 or not all(part.isdigit() for part in parts) or 0 in map(int, parts[:3] + parts[4:]):
        raise ValueError(f"--shape must be five sizes H,HEIGHT,WIDTH,TEXT,D > 0 (TEXT >= 0), got {text!r}")
    return tuple(int(part) for part in parts)


def bench(shape: tuple[int, ...], args: argparse.Namespace) -> dict[str, Any]:
    """One row: every variant's times, how many times longer than ours each takes, and how far they differ."""
    import torch

    heads, height, width, text, dim = shape
    qkv = torch.randn(1, text + height * width, 3, heads, dim)
    variants = {"eager": ours(height, width, text), "softmax": softmax}
    if args.training:
        variants = {name: with_backward(call) for name, call in variants.items()}
    elif not args.no_flex:
        variants["flex"] = flex(height, width, text)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(args.rounds + 1):  # the first round warms up
        for name, call in variants.items():
            seconds = cpu_seconds(lambda call=call: call(qkv))
            if i:
                times[name].append(seconds)
    row: dict[str, Any] = {"shape": dict(zip(("H", "height", "width", "text", "D"), shape, strict=True))}
    row |= {"radius": RADIUS, "pass": "training" if args.training else "forward", "rounds": args.rounds}
    row["ratio"] = {n: spread(ratios(t, times["eager"]), 2) for n, t in times.items() if n != "eager"}
    row["ms"] = {name: spread([1e3 * x for x in t], 1) for name, t in times.items()}
    if "flex" in variants:
        row["largest_difference_to_flex"] = float(
            (variants["flex"](qkv) - variants["eager"](qkv)).abs().max()
        )
    return row


def ours(height: int, width: int, text: int) -> Callable[[Any], Any]:
    from ..kernels import local_attn

    options = {"grid": (height, width), "radius": RADIUS, "n_global": text, "backend": "eager"}
    return lambda qkv: local_attn(*qkv.unbind(2), **options)[0]


def softmax(qkv: Any) -> Any:
    from torch.nn.functional import scaled_dot_product_attention

    return scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4)).transpose(1, 2)


def flex(height: int, width: int, text: int) -> Callable[[Any], Any]:
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def seen(b, h, i, j):
        dy = (i - text) // width - (j - text) // width
        dx = (i - text) % width - (j - text) % width
        return (i < text) | (j < text) | (dy * dy + dx * dx < RADIUS**2)

    tokens = text + height * width
    mask = torch.compile(create_block_mask)(seen, None, None, tokens, tokens, device="cpu")
    call = torch.compile(flex_attention, dynamic=False)
    # contiguous heads are what it is fastest on; the copy is not timed against it
    kept: dict[int, Any] = {}

    def attend(qkv: Any) -> Any:
        if id(qkv) not in kept:
            kept[id(qkv)] = qkv.permute(2, 0, 3, 1, 4).contiguous()
        return call(*kept[id(qkv)], block_mask=mask).transpose(1, 2)

    return attend


def with_backward(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    import torch

    def step(qkv: Any) -> Any:
        leaf = qkv.detach().requires_grad_()
        y = call(leaf)
        return torch.autograd.grad(y, leaf, y.detach())[0]

    return step


def line(row: dict[str, Any]) -> str:
    parts = [f"{n} {r['median']:.2f}x ({r['min']:.2f}-{r['max']:.2f})" for n, r in row["ratio"].items()]
    own = row["ms"]["eager"]
    name = ",".join(map(str, row["shape"].values()))
    return (
        f"{name:>18} {row['pass']}: {', '.join(parts)} | eager {own['median']} ms ({own['min']}-{own['max']})"
    )


def save(out: Path, rows: list[dict[str, Any]], peaks: dict[str, dict[str, float]]) -> None:
    import torch

    from .demo.machine import commit, processor
    from .files import write_atomic

    common = {"command": "linzoo bench local-attn --save", "commit": commit(), "device": processor()}
    common |= {"flags": flags(), "torch": torch.__version__, "threads": 1}
    common |= {"date": datetime.now(UTC).strftime("%Y-%m-%d")}
    common |= {name: {n: round(x, 2) for n, x in values.items()} for name, values in peaks.items()}
    write_atomic(out, "".join(json.dumps(row | common) + "\n" for row in rows).encode())
    print(f"{len(rows)} rows written to {out}")
