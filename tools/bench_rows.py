"""What every CPU bench does round its rows: one thread, interleaved rounds, spreads, and rows that are saved.

Process CPU time; a ratio is the median of the rounds' own ratios. Rows are not saved where the machine's
peaks moved meanwhile.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

DRIFT = 0.15
Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser, results: Path) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default 5, at least 5 to save)")
    parser.add_argument(
        "--save", action="store_true", help=f"replace the rows in {results.name} when all went well"
    )
    parser.add_argument("--out", type=Path, default=results, help="where --save writes")


def run(
    args: argparse.Namespace,
    command: str,
    rows: Iterable[Callable[[], Row]],
    line: Callable[[Row], str],
    kept: Iterable[Row] = (),
) -> int:
    """Measures each row, prints it, and saves them all if asked; 1 where the machine was too restless.

    kept: rows of the file that are saved with them, as they are.
    """
    import torch

    from . import kernel_rivals
    from .demo.machine import commit, processor

    if args.rounds < 1 or (args.save and args.rounds < 5):
        raise ValueError(f"--rounds must be >= 1, and >= 5 with --save, got {args.rounds}")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    before = kernel_rivals.peaks(fastest)
    print(f"{processor()} {flags()} | torch {torch.__version__} | 1 thread, CPU time | commit {commit()}")
    print("peaks: " + ", ".join(f"{name} {value:.1f}" for name, value in before.items()))
    done = []
    for measure in rows:
        done.append(measure())
        print(line(done[-1]), flush=True)
    after = kernel_rivals.peaks(fastest)
    drift = max(abs(after[name] / value - 1) for name, value in before.items())
    print(f"peaks moved by {drift:.0%} during the run")
    if not args.save:
        return 0
    if drift > DRIFT:
        print(f"not saved: the machine's peaks moved by more than {DRIFT:.0%}; run again when it is quiet")
        return 1
    save(args.out, done, command, {"peaks_before": before, "peaks_after": after}, kept)
    return 0


def interleaved(
    variants: dict[str, Callable[[], object]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of every variant in every round; the first ``warm_up`` rounds are not counted."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(rounds + warm_up):
        for name, call in variants.items():
            seconds = cpu_seconds(call)
            if i >= warm_up:
                times[name].append(seconds)
    return times


def compared(times: dict[str, list[float]], own: str) -> Row:
    """``ratio``: how many times longer than ``own`` each takes; ``ms``: every variant's times."""
    others = {name: t for name, t in times.items() if name != own}
    return {
        "ratio": {name: spread(ratios(t, times[own]), 2) for name, t in others.items()},
        "ms": {name: spread([1e3 * x for x in t], 1) for name, t in times.items()},
    }


def ratio_text(row: Row) -> str:
    """Ratios with their spread."""
    parts = (f"{n} {r['median']:.2f}x ({r['min']:.2f}-{r['max']:.2f})" for n, r in row["ratio"].items())
    return ", ".join(parts)


def fastest(run: Callable[[], object], rounds: int = 5) -> float:
    run()
    return min(cpu_seconds(run) for _ in range(rounds))


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def ratios(rival: list[float], own: list[float]) -> list[float]:
    return [a / b for a, b in zip(rival, own, strict=False)]


def spread(values: list[float], digits: int) -> dict[str, float]:
    return {
        name: round(pick(values), digits)
        for name, pick in (("median", statistics.median), ("min", min), ("max", max))
    }


def flags() -> list[str]:
    """The vector extensions that decide how fast matrix products are here."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in words]


def save(
    out: Path,
    rows: list[Row],
    command: str,
    peaks: dict[str, dict[str, float]],
    kept: Iterable[Row] = (),
) -> None:
    import torch

    from .demo.machine import commit, processor
    from .files import write_rows

    common: Row = {"command": command, "commit": commit(), "device": processor(), "flags": flags()}
    common |= {
        "torch": torch.__version__,
        "threads": 1,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    common |= {name: {n: round(x, 2) for n, x in values.items()} for name, values in peaks.items()}
    lines = [*kept, *(row | common for row in rows)]
    write_rows(out, lines)
    print(f"{len(rows)} rows written to {out}")
