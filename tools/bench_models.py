"""``linzoo bench models``: latency, multiply-adds and peak memory of whole models.

CPU time of the process on one thread unless ``--threads`` says otherwise (on CUDA: wall time between two
synchronisations). The forms of a model are timed in turn in one process, and a ratio is the median of the
rounds' own ratios, so that a slow spell of the machine hits both sides. Multiply-adds are counted on the meta
device: matrix products and convolutions, with a formula for linzoo's own ops.
"""

import argparse
import csv
import itertools
import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "models-cpu.jsonl"
PRECISIONS = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16", "amp": "float32"}
RIVALS = ("ravlt_tiny", "mala_tiny", "nalaformer_tiny", "l2vit_tiny")
RIVAL_SIZES = (224, 1024)
DEFAULTS = ("*_tiny", "efficientvim_m1")  # one size of each of ours, and of the linear family that timm has
COLUMNS = (
    "model", "img_size", "form", "batch_size", "precision", "ms_per_step", "ms_spread", "samples_per_sec",
    "param_count_m", "gmacs", "peak_mb",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", "--model-list", nargs="+", metavar="PATTERN", help="default: *_tiny, efficientvim_m1")
    add("--img-size", nargs="+", type=int, metavar="PIXELS", help="default: 224; 224 1024 with upstream")
    add("-b", "--batch-size", type=int, default=1)
    add("--precision", choices=sorted(PRECISIONS), default="float32", help="amp: bfloat16 autocast")
    add("--num-warm-iter", type=int, default=1, help="untimed rounds (default 1)")
    add("--num-bench-iter", type=int, default=7, help="timed rounds (default 7)")
    add("--threads", type=int, default=1, help="CPU threads (default 1)")
    add("--device", default="cpu")
    add("--results-file", type=Path, metavar="CSV", help="write the table there")
    add("--against-upstream", action="store_true", help="eager, folded, and the authors' order of operations")
    add("--save", action="store_true", help=f"with --against-upstream: replace the rows in {RESULTS.name}")
    add("--out", type=Path, default=RESULTS, help="where --save writes")


def run(args: argparse.Namespace) -> int:
    import torch

    from .demo.machine import commit, processor

    names, sizes = plan(args)
    torch.set_num_threads(args.threads)
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else processor()
    version = commit()  # of what was imported; a long run may see the next one
    clock = "wall time" if args.device.startswith("cuda") else f"{args.threads} thread(s), CPU time"
    print(f"{device} | torch {torch.__version__} | {clock} | commit {version or 'unknown'}")
    print(
        f"median of {args.num_bench_iter} rounds [lowest, highest], batch {args.batch_size}, {args.precision}"
    )
    rows = []
    for size in sizes:
        for name in names:
            rows.append(bench(name, size, args))
            print(line(rows[-1]), flush=True)
    if args.results_file:
        write_csv(args.results_file, rows)
    if args.save:
        save(args.out, rows, device, version)
    return 0


def plan(args: argparse.Namespace) -> tuple[list[str], list[int]]:
    """Model names and sizes, or a ValueError that names the argument."""
    sizes = args.img_size or (RIVAL_SIZES if args.against_upstream else (224,))
    for what, values, least in (
        ("--img-size", sizes, 32),
        ("--batch-size", [args.batch_size], 1),
        ("--num-bench-iter", [args.num_bench_iter], 5 if args.save else 1),
        ("--num-warm-iter", [args.num_warm_iter], 0),
        ("--threads", [args.threads], 1),
    ):
        if min(values) < least:
            raise ValueError(f"{what} must be at least {least}, got {min(values)}")
    if args.save and not args.against_upstream:
        raise ValueError("--save needs --against-upstream, which is what the kept rows hold")
    names: list[str] = []
    for pattern in args.model or (RIVALS if args.against_upstream else DEFAULTS):
        names += [name for name in matching(pattern) if name not in names]
    if args.against_upstream:
        check_rivals(names)
    return names, list(sizes)


def matching(pattern: str) -> list[str]:
    """The models that a name or wildcard means: linzoo's, and only where none of them fits timm's own."""
    from fnmatch import fnmatch

    import timm

    from .models import check_name, our_names

    if not any(sign in pattern for sign in "*?["):
        return [check_name(pattern)]
    found = [name for name in our_names() if fnmatch(name, pattern)] or timm.list_models(pattern)
    if not found:
        raise ValueError(f"--model: no model of linzoo or timm matches {pattern!r}")
    return found


def check_rivals(names: list[str]) -> None:
    """Raises: ValueError for a model whose authors' order of operations is not written down here."""
    from .models import meta_model
    from .upstream_form import upstream_form

    for name in names:
        try:
            upstream_form(meta_model(name))
        except TypeError as error:
            raise ValueError(f"--against-upstream: not available for {name}: {error}") from error


def bench(name: str, size: int, args: argparse.Namespace) -> dict[str, Any]:
    """One row: times of every form of one model at one size."""
    import timm
    import torch

    from .models import count_macs, count_parameters

    torch.manual_seed(0)
    model = timm.create_model(name).eval().to(args.device, getattr(torch, PRECISIONS[args.precision]))
    channels = model.default_cfg["input_size"][0]
    image = torch.randn(args.batch_size, channels, size, size, device=args.device)
    image = image.to(next(model.parameters()).dtype)
    forms = forms_of(model, args.against_upstream)
    autocast = torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.precision == "amp")
    with torch.inference_mode(), autocast:
        times, peaks = timed(forms, image, args)
    row: dict[str, Any] = {
        "model": name,
        "img_size": size,
        "batch_size": args.batch_size,
        "precision": args.precision,
        "parameters": count_parameters(model),
        "gmacs": round(count_macs(name, size) / 1e9, 3),
        "ms": {form: spread([1e3 * t for t in ts], 1) for form, ts in times.items()},
        "peak_mb": peaks,
        "rounds": args.num_bench_iter,
    }
    if args.against_upstream:
        row["upstream_over"] = {
            form: spread([u / t for u, t in zip(times["upstream"], times[form], strict=True)], 2)
            for form in times
            if form != "upstream"
        }
    return row


def forms_of(model: Any, against_upstream: bool) -> dict[str, Callable]:
    from ..vision import fold

    forms: dict[str, Callable] = {"eager": model}
    if type(model).__module__.startswith("linzoo."):
        forms["folded"] = fold(model)
    if against_upstream:
        from .upstream_form import upstream_form

        forms["upstream"] = upstream_form(model)
    return forms


def timed(
    forms: dict[str, Callable], image: Any, args: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each form in each round, and its peak memory in megabytes."""
    times: dict[str, list[float]] = {form: [] for form in forms}
    peaks = {form: peak_megabytes(lambda call=call: call(image), args.device) for form, call in forms.items()}
    for i in range(args.num_warm_iter + args.num_bench_iter):
        for form, call in forms.items():
            seconds = elapsed(lambda call=call: call(image), args.device)
            if i >= args.num_warm_iter:
                times[form].append(seconds)
    return times, peaks


def elapsed(call: Callable[[], object], device: str) -> float:
    import torch

    if not device.startswith("cuda"):
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak_megabytes(call: Callable[[], object], device: str) -> float:
    """Highest sum of live tensors during the call, without the weights and the input, in megabytes.

    On CPU from torch's record of its allocations: no noise, but what libraries such as oneDNN keep for
    themselves does not show.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return round((torch.cuda.max_memory_allocated(device) - before) / 1e6, 1)
    call()  # what is kept between calls, such as rotary tables, is made here
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return round(max(live, default=0) / 1e6, 1)


def spread(values: list[float], digits: int) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def line(row: dict[str, Any]) -> str:
    parts = [
        f"{row['model']:<17}{row['img_size']:>5} px {row['parameters'] / 1e6:6.1f} M {row['gmacs']:8.2f} GMAC"
    ]
    for form, ms in row["ms"].items():
        times = f"{ms['median']:.1f} ms [{ms['min']:.1f}, {ms['max']:.1f}]"
        parts.append(f"{form} {times} {row['peak_mb'][form]:.0f} MB")
    for form, ratio in row.get("upstream_over", {}).items():
        parts.append(f"upstream/{form} {ratio['median']:.2f}x [{ratio['min']:.2f}, {ratio['max']:.2f}]")
    return "  ".join(parts)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """One line for each form of each row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            for form, ms in row["ms"].items():
                writer.writerow(
                    {
                        "model": row["model"],
                        "img_size": row["img_size"],
                        "form": form,
                        "batch_size": row["batch_size"],
                        "precision": row["precision"],
                        "ms_per_step": ms["median"],
                        "ms_spread": round(ms["max"] - ms["min"], 1),
                        "samples_per_sec": round(1e3 * row["batch_size"] / ms["median"], 2),
                        "param_count_m": round(row["parameters"] / 1e6, 2),
                        "gmacs": row["gmacs"],
                        "peak_mb": row["peak_mb"][form],
                    }
                )


def save(path: Path, rows: list[dict[str, Any]], device: str, version: str) -> None:
    """Replaces the file by these rows, each with the command, the machine and the commit."""
    import torch

    about = {
        "command": "linzoo bench models --against-upstream --save",
        "device": device,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "commit": version,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    fresh.write_text("".join(json.dumps({**row, **about}) + "\n" for row in rows))
    fresh.replace(path)
    print(f"saved {len(rows)} rows to {path}")
