"""``linzoo bench gpu``: the Triton kernels on this machine's GPU against plain torch and named rivals.

CUDA events around single calls, the L2 cache flushed between them, median and 20 % to 80 % quantiles; all
variants of a case one after another in one process. Ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .bench_gpu_cases import CASES, Case

DTYPES = ("bfloat16", "float16", "float32")
RESULTS = Path(__file__).parent / "results" / "kernels-gpu.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument(
        "--dtype", nargs="+", default=["bfloat16"], choices=("bfloat16", "float16", "float32")
    )
    parser.add_argument("--forward-only", action="store_true", help="no backward")
    parser.add_argument("--compiled", action="store_true", help="rivals that torch.compile makes, too")
    parser.add_argument("--milliseconds", type=int, default=100, metavar="N", help="timed per variant (100)")
    parser.add_argument("--save", action="store_true", help=f"append rows to {RESULTS.name}")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where --save writes")


def run(args: argparse.Namespace) -> int:
    import torch

    unknown = [name for name in args.cases if name not in CASES]
    if unknown:
        raise ValueError(f"CASE must be of {', '.join(CASES)}, got {unknown[0]!r}")
    if not torch.cuda.is_available():
        raise ValueError("linzoo bench gpu: torch sees no GPU")
    torch.manual_seed(0)
    names = args.cases or list(CASES)
    print(f"{torch.cuda.get_device_name()} | torch {torch.__version__} | commit {_commit()}")
    rows = []
    for name in names:
        for case in _cases(name, args):
            for backward in (False, True)[: 1 if args.forward_only else 2]:
                rows.append(_bench(name, case, backward, args.milliseconds))
                print(_line(rows[-1]), flush=True)
                if args.save:
                    _append(args.out, rows[-1])
    return 0


def _cases(name: str, args: argparse.Namespace) -> Iterator[Case]:
    import torch

    for dtype in args.dtype:
        yield from CASES[name](getattr(torch, dtype), args.compiled)


def _bench(name: str, case: Case, backward: bool, milliseconds: int) -> dict[str, Any]:
    """One row: every variant's time; a variant that fails says why in place of it."""
    import torch
    from triton.testing import do_bench

    row: dict[str, Any] = {"case": name, "what": case.what, "pass": "training" if backward else "forward"}
    times: dict[str, list[float]] = {}
    for variant, call in case.variants.items():
        timed = _step(call, case.inputs) if backward else call
        try:
            with torch.set_grad_enabled(backward):
                times[variant] = do_bench(timed, rep=milliseconds, quantiles=[0.5, 0.2, 0.8])
        except Exception as error:  # out of memory, a rival that lacks this shape: the row says so
            row.setdefault("failed", {})[variant] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        torch.cuda.empty_cache()
    row["ms"] = {variant: [round(t, 4) for t in values] for variant, values in times.items()}
    if "triton" in times:
        own = times["triton"][0]
        row["ratio"] = {v: round(t[0] / own, 2) for v, t in times.items() if v != "triton"}
        if not backward and case.bytes_moved:
            row["GB/s"] = round(case.bytes_moved / own / 1e6)
    return row


def _step(call: Callable[[], Any], inputs: tuple) -> Callable[[], Any]:
    """Forward and the gradients of all inputs; the output is its own gradient."""
    import torch

    def step() -> Any:
        out = call()
        return torch.autograd.grad(out, inputs, out.detach())

    return step


def _line(row: dict[str, Any]) -> str:
    parts = [f"{variant} {values[0]:.3f} ms" for variant, values in row["ms"].items()]
    ratios = ", ".join(f"{variant} {ratio}x" for variant, ratio in row.get("ratio", {}).items())
    failed = "".join(f" | {variant}: {why}" for variant, why in row.get("failed", {}).items())
    rate = f" | {row['GB/s']} GB/s" if "GB/s" in row else ""
    return f"{row['case']} {row['what']} {row['pass']}: {', '.join(parts)} | {ratios}{rate}{failed}"


def _append(out: Path, row: dict[str, Any]) -> None:
    import torch
    import triton

    common = {"command": " ".join(["linzoo", *sys.argv[1:]]), "commit": _commit()}
    common |= {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    common |= {"triton": triton.__version__, "date": datetime.now(UTC).strftime("%Y-%m-%d")}
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "a", encoding="utf-8") as file:
        file.write(json.dumps(row | common) + "\n")


def _commit() -> str:
    from .demo.machine import commit

    return commit()
