"""``linzoo bench selective-scan``: the eager scan against two tensors of all states and a loop over tokens.

One thread, process CPU time, all variants interleaved in one process, one warm-up round; a ratio is the
median of the rounds' own ratios. The rival is the plain-torch form that Mamba's authors publish: e^{delta A}
and delta u B for all tokens, (B, C, N, S) each, then one step a token; its inputs lie channels first, as
theirs do.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import bench_rows
from .bench_rows import compared, interleaved, ratio_text

# Rows B, tokens N, channels C, states S a channel.
SHAPES = ((1, 4096, 256, 16), (4, 1024, 256, 16))
RESULTS = Path(__file__).parent / "results" / "selective-scan-cpu.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = " ".join(",".join(map(str, s)) for s in SHAPES)
    parser.add_argument("--shape", action="append", metavar="B,N,C,S", help=f"repeatable; default: {names}")
    parser.add_argument(
        "--training", action="store_true", help="forward and backward (the rival's tokens are unbound once)"
    )
    bench_rows.add_arguments(parser, RESULTS)


def run(args: argparse.Namespace) -> int:
    shapes = [parse_shape(s) for s in args.shape] if args.shape else SHAPES
    passes = ("forward", "training") if args.save else ("training" if args.training else "forward",)
    rows = (lambda shape=s, which=which: bench(shape, which, args.rounds) for s in shapes for which in passes)
    return bench_rows.run(args, "linzoo bench selective-scan --save", rows, line)


def parse_shape(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) != 4 or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"--shape must be four sizes B,N,C,S > 0, got {text!r}")
    return tuple(int(part) for part in parts)


def bench(shape: tuple[int, ...], which: str, rounds: int) -> dict[str, Any]:
    """One row: both forms' times, how many times longer the rival takes, and how far their outputs differ."""
    inputs = inputs_of(shape)
    channels_first = [x.mT.contiguous() if x.dim() == 3 else x for x in inputs]
    calls: dict[str, Callable[[], Any]] = {
        "eager": lambda: ours(*inputs),
        "loop": lambda: loop(*channels_first),
    }
    difference = float((calls["eager"]() - calls["loop"]().mT).abs().max())
    if which == "training":
        calls = {
            "eager": lambda: step(ours, inputs),
            "loop": lambda: step(lambda *x: loop(*x, unbound=True), channels_first),
        }
    times = interleaved(calls, rounds)
    row: dict[str, Any] = {"shape": dict(zip("BNCS", shape, strict=True)), "pass": which, "rounds": rounds}
    return row | compared(times, "eager") | {"largest_difference": difference}


def inputs_of(shape: tuple[int, ...]) -> list[Any]:
    """u, delta, A, B, C, D as Mamba starts with: A = -(1 .. S), steps of 0.001 to 0.1."""
    import torch

    rows, tokens, channels, size = shape
    delta = torch.empty(rows, tokens, channels).uniform_(-6.9, -2.3).exp_()
    A = -torch.arange(1.0, size + 1).repeat(channels, 1)
    B, C = (torch.randn(rows, tokens, size) for _ in range(2))
    return [torch.randn(rows, tokens, channels), delta, A, B, C, torch.ones(channels)]


def ours(*inputs: Any) -> Any:
    from ..kernels import selective_scan

    return selective_scan(*inputs, backend="eager")[0]


def loop(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, unbound: bool = False) -> Any:
    """y (B, C, N) of u, delta (B, C, N) and B, C (B, S, N).

    Unbound: all steps are views made at once, for a slice a token has a backward of O(N) each.
    """
    import torch

    decay = torch.exp(torch.einsum("bcn,cs->bcns", delta, A))
    added = torch.einsum("bcn,bsn,bcn->bcns", delta, B, u)
    h = u.new_zeros(u.shape[0], *A.shape)
    steps = ((decay[:, :, t], added[:, :, t], C[:, :, t]) for t in range(u.shape[2]))
    if unbound:
        steps = zip(*(x.unbind(2) for x in (decay, added, C)), strict=True)
    ys = []
    for a, b, c in steps:
        h = a * h + b
        ys.append(torch.einsum("bcs,bs->bc", h, c))
    return torch.stack(ys, 2) + D[:, None] * u


def step(call: Callable[..., Any], inputs: list[Any]) -> Any:
    """Forward and backward to every input."""
    import torch

    leaves = [x.detach().requires_grad_() for x in inputs]
    y = call(*leaves)
    return torch.autograd.grad(y, leaves, y.detach())


def line(row: dict[str, Any]) -> str:
    own = row["ms"]["eager"]
    name = ",".join(map(str, row["shape"].values()))
    return (
        f"{name:>15} {row['pass']}: {ratio_text(row)} | eager {own['median']} ms ({own['min']}-{own['max']})"
    )
