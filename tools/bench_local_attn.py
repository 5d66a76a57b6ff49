"""``linzoo bench local-attn``: eager local attention against compiled FlexAttention and full softmax.

One thread, process CPU time, all variants interleaved in one process, one warm-up round; a ratio is the
median of the rounds' own ratios. FlexAttention has its tokens in raster order and its usual blocks of 128.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import bench_rows
from .bench_rows import compared, interleaved, ratio_text

# Heads, grid height and width, text tokens, width D.
SHAPES = ((4, 64, 64, 128, 64), (2, 128, 128, 128, 64), (24, 64, 64, 512, 128))
RADIUS = 8
RESULTS = Path(__file__).parent / "results" / "local-attn-cpu.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = " ".join(",".join(map(str, s)) for s in SHAPES)
    parser.add_argument(
        "--shape", action="append", metavar="H,HEIGHT,WIDTH,TEXT,D", help=f"repeatable; default: {names}"
    )
    parser.add_argument(
        "--training", action="store_true", help="forward and backward (without FlexAttention)"
    )
    parser.add_argument(
        "--no-flex", action="store_true", help="leave out FlexAttention (a minute to compile)"
    )
    bench_rows.add_arguments(parser, RESULTS)


def run(args: argparse.Namespace) -> int:
    shapes = [parse_shape(s) for s in args.shape] if args.shape else SHAPES
    rows = (lambda shape=shape: bench(shape, args) for shape in shapes)
    return bench_rows.run(args, "linzoo bench local-attn --save", rows, line)


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
    calls = {name: lambda call=call: call(qkv) for name, call in variants.items()}
    times = interleaved(calls, args.rounds)
    row: dict[str, Any] = {"shape": dict(zip(("H", "height", "width", "text", "D"), shape, strict=True))}
    row |= {"radius": RADIUS, "pass": "training" if args.training else "forward", "rounds": args.rounds}
    row |= compared(times, "eager")
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
    own = row["ms"]["eager"]
    name = ",".join(map(str, row["shape"].values()))
    return (
        f"{name:>18} {row['pass']}: {ratio_text(row)} | eager {own['median']} ms ({own['min']}-{own['max']})"
    )
