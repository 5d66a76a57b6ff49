"""``linzoo bench decay-scan``: eager scans against a loop over tokens and, for mLSTM, the quadratic form.

One thread, process CPU time, all variants interleaved in one process, one warm-up round; a ratio is the
median of the rounds' own ratios.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from . import bench_rows
from .bench_rows import compared, interleaved, ratio_text

SHAPE = (4096, 4, 64)  # tokens, heads, width D = E
# What is scanned: its rival, and how many times longer that is to take.
KINDS = {
    "constant": ("loop", 9.0),
    "channel": ("loop", 6.0),  # a tile's decays in one factored product
    "strong": ("loop", 2.0),  # 30 times stronger: tiles are halved until the parts factor
    "rwkv": ("loop", 5.0),  # both directions of LION's: two calls
    "mlstm": ("quadratic", 5.0),
}
RESULTS = Path(__file__).parent / "results" / "decay-scan-cpu.jsonl"
Variants = dict[str, Callable[[dict[str, Any]], Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = ",".join(map(str, SHAPE))
    parser.add_argument("--shape", metavar="N,H,D", default=default, help=f"default: {default}")
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=tuple(KINDS), help="default: all")
    bench_rows.add_arguments(parser, RESULTS)


def run(args: argparse.Namespace) -> int:
    shape = parse_shape(args.shape)
    rows = [partial(bench, kind, shape, args.rounds) for kind in args.kind]
    return bench_rows.run(args, "linzoo bench decay-scan --save", rows, line)


def parse_shape(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"--shape must be three sizes N,H,D > 0, got {text!r}")
    return tuple(int(part) for part in parts)


def bench(kind: str, shape: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """One row: both variants' times, how many times longer the rival takes, and how far they differ."""
    import torch

    rival, least = KINDS[kind]
    x = inputs(kind, *shape)
    variants: Variants = {"eager": ours(kind), rival: rival_of(kind)}
    with torch.no_grad():
        results = {name: call(x) for name, call in variants.items()}
        times = interleaved({name: partial(call, x) for name, call in variants.items()}, rounds)
    row: dict[str, Any] = {"kind": kind, "shape": dict(zip(("N", "H", "D"), shape, strict=True))}
    row |= {"pass": "forward", "rounds": rounds, "least_ratio": least} | compared(times, "eager")
    difference = (results["eager"] - results[rival]).norm() / results[rival].norm()
    return row | {"relative_difference": float(difference)}


def inputs(kind: str, tokens: int, heads: int, width: int) -> dict[str, Any]:
    """q, k, v and what else a kind takes, one row; decays as gated linear attention has them."""
    import torch
    from torch.nn.functional import logsigmoid

    q, k, v = torch.randn(3, 1, tokens, heads, width).unbind(0)
    x = {"q": q * width**-0.5, "k": k, "v": v}
    if kind == "constant":
        return x | {"log_decay": torch.log1p(-(2.0 ** -torch.arange(5.0, 5.0 + heads)))}
    if kind == "mlstm":
        gates = torch.randn(2, 1, tokens, heads)
        return x | {"log_decay": logsigmoid(gates[0] + 3), "input_gate": gates[1]}
    strength = 30.0 if kind == "strong" else 1.0
    x["log_decay"] = logsigmoid(torch.randn(1, tokens, heads, width)) / 16 * strength
    return x | ({"bonus": torch.randn(heads, width)} if kind == "rwkv" else {})


def ours(kind: str) -> Callable[[dict[str, Any]], Any]:
    from ..kernels import decay_scan

    def rwkv(x: dict[str, Any]) -> Any:
        back = {name: t for name, t in x.items() if name != "bonus"}
        first = decay_scan(**x, exclusive=True, backend="eager")[0]
        return first + decay_scan(**back, exclusive=True, reverse=True, backend="eager")[0]

    words = {"normalizer": "max"} if kind == "mlstm" else {}
    return rwkv if kind == "rwkv" else lambda x: decay_scan(**x, **words, backend="eager")[0]


def rival_of(kind: str) -> Callable[[dict[str, Any]], Any]:
    if kind == "mlstm":
        return quadratic
    if kind == "rwkv":
        return lambda x: loop(x, exclusive=True) + loop(x | {"bonus": None}, exclusive=True, reverse=True)
    return loop


def loop(x: dict[str, Any], exclusive: bool = False, reverse: bool = False) -> Any:
    """The recurrence token by token: one update and one product each, nothing kept but the state."""
    import torch

    q, v = (x[name][0].unsqueeze(-2) for name in ("q", "v"))  # (N, H, 1, .)
    k, bonus = x["k"][0].unsqueeze(-1), x.get("bonus")
    bonus = None if bonus is None else bonus.unsqueeze(-1)
    tokens, heads, width, _ = k.shape
    decay = x["log_decay"].exp()
    decay = decay.view(1, -1, 1, 1).expand(tokens, -1, -1, -1) if decay.dim() == 1 else decay[0].unsqueeze(-1)
    o, S = torch.empty(v.shape), torch.zeros(heads, width, v.shape[-1])
    for t in reversed(range(tokens)) if reverse else range(tokens):
        if exclusive:
            seen = S if bonus is None else torch.addcmul(S, bonus * k[t], v[t])
            torch.matmul(q[t], seen, out=o[t])
        S.mul_(decay[t]).addcmul_(k[t], v[t])
        if not exclusive:
            torch.matmul(q[t], S, out=o[t])
    return o.squeeze(2).unsqueeze(0)


def quadratic(x: dict[str, Any]) -> Any:
    """mLSTM's published parallel form, an N x N matrix a head."""
    import torch

    tokens = x["q"].shape[1]
    later = torch.ones(tokens, tokens, dtype=torch.bool).triu_(1)
    sums = x["log_decay"][0].double().cumsum(0)
    o = torch.empty(x["v"].shape)
    for head in range(o.shape[2]):
        q, k, v = (x[name][0, :, head] for name in ("q", "k", "v"))
        b = sums[:, head]
        logs = (b.unsqueeze(1) - (b - x["input_gate"][0, :, head]).unsqueeze(0)).float()
        logs.masked_fill_(later, -torch.inf)
        most = logs.amax(1, keepdim=True)
        scores = torch.matmul(q, k.T).mul_(logs.sub_(most).exp_())
        below = torch.maximum(scores.sum(1, keepdim=True).abs(), (-most).exp()) + 1e-6
        o[0, :, head] = torch.matmul(scores, v) / below
    return o


def line(row: dict[str, Any]) -> str:
    times = ", ".join(f"{name} {spread['median']} ms" for name, spread in row["ms"].items())
    return (
        f"{row['kind']:>9}: {ratio_text(row)}, wanted {row['least_ratio']:g}x | {times} | "
        f"differ by {row['relative_difference']:.0e}"
    )
