"""``linzoo kernel-report``: compiles the Triton kernels for GPUs that are not here, against limits.

By model, dtype, device kernel and architecture: registers, stack, shared memory, spills, tensor-core
instructions. These are facts of compilation, not speeds. The committed
thresholds.json keeps the hard limits and, per kernel, the registers it may use (ten percent of slack).
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from . import compile_decay_scan, compile_local_attn, compile_selective_scan, compile_sparse_conv
from .compile_facts import ARCHS, DTYPES, MODELS, Job, compilers, jobs, measure

# The other ops' lists: each module has MODELS, Job, jobs, measure and thresholds_path.
OTHER_OPS = (compile_local_attn, compile_decay_scan, compile_sparse_conv, compile_selective_scan)
EVERY_MODEL = (*MODELS, *(model for op in OTHER_OPS for model in op.MODELS))


def thresholds_path() -> Path:
    """Beside the kernels, in a checkout as in an installed package."""
    from ..kernels.linear_attn import triton_tiles

    return Path(triton_tiles.__file__).with_name("thresholds.json")


def violations(job: Job, facts: dict[str, Any], table: dict[str, Any]) -> list[str]:
    """What of one kernel's facts is outside the table's limits, as phrases; empty when all is well."""
    if "error" in facts:
        return [f"does not compile: {facts['error']}"]
    limits = table["limits"]
    found = [f"{key} must be 0, got {facts[key]}" for key in ("stack", "spills") if facts[key]]
    if facts["shared"] > limits["shared"][job.arch]:
        found.append(f"shared must be at most {limits['shared'][job.arch]} bytes, got {facts['shared']}")
    multiplies = getattr(job, "multiplies", True)  # a job says so where its kernel has no matrix product
    if multiplies and job.dtype == "bf16" and not facts["tensor_cores"]:
        found.append("tensor_cores must be at least 1 in bf16, got 0")
    known = table["facts"].get(job.name)
    if known is None:
        found.append("has no recorded registers: run with --update")
    elif facts["registers"] > known["registers"] * (1 + limits["register_slack"]):
        slack = f"{limits['register_slack']:.0%}"
        found.append(f"registers must be at most {known['registers']} + {slack}, got {facts['registers']}")
    return found


def _measure_named(job: Job) -> tuple[Job, dict[str, Any]]:
    own = {op.Job: op.measure for op in OTHER_OPS}.get(type(job), measure)
    try:
        return job, own(job)
    except Exception as error:  # a kernel that does not compile is a finding, the others are still wanted
        return job, {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"}


def measure_all(todo: list[Job], workers: int) -> Iterator[tuple[Job, dict[str, Any]]]:
    if workers == 1:
        yield from map(_measure_named, todo)
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield from pool.map(_measure_named, todo)


def progress(results: Iterable[tuple[Job, Any]], total: int) -> Iterator[tuple[Job, Any]]:
    """Passes results on; a counter with the time left on stderr."""
    started = time.monotonic()
    for done, (job, facts) in enumerate(results, 1):
        left = (time.monotonic() - started) / done * (total - done)
        end = "\n" if not sys.stderr.isatty() or done == total else "\r"
        if sys.stderr.isatty() or done % 20 == 0 or done == total:
            print(
                f"{done}/{total}  about {left:.0f} s left  {job.name:<60}",
                end=end,
                file=sys.stderr,
                flush=True,
            )
        yield job, facts


def table_line(job: Job, facts: dict[str, Any]) -> str:
    if "error" in facts:
        return f"{job.name:<52}  {facts['error']}"
    numbers = (facts[key] for key in ("registers", "stack", "spills", "shared", "tensor_cores"))
    return f"{job.name:<52}" + "".join(f"{n:>8}" for n in numbers) + f"  {facts['tile']}"


def report(todo: list[Job], table: dict[str, Any], workers: int = 1, update: bool = False) -> list[str]:
    """Compiles ``todo``, prints the table and returns every violation; ``update`` records the facts first."""
    print(
        f"{'kernel':<52}"
        + "".join(f"{h:>8}" for h in ("regs", "stack", "spills", "shared", "tensor"))
        + "  tile"
    )
    found = []
    for job, facts in progress(measure_all(todo, workers), len(todo)):
        if update and "error" not in facts:
            table["facts"][job.name] = facts
        found += [f"{job.name}: {phrase}" for phrase in violations(job, facts, table)]
        print(table_line(job, facts))
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", nargs="+", choices=ARCHS, default=ARCHS, help="targets (default: all)")
    parser.add_argument("--model", nargs="+", choices=EVERY_MODEL, default=EVERY_MODEL, help="default: all")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES, help="default: both")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="compiler processes (default 1)")
    parser.add_argument("--update", action="store_true", help="write what was measured to thresholds.json")


def run(args: argparse.Namespace) -> int:
    """0 when every kernel is within the limits, 1 with a list of those that are not."""
    from importlib.util import find_spec

    if find_spec("triton") is None:
        print("kernel-report: needs triton: pip install triton", file=sys.stderr)
        return 2
    if os.environ.get("TRITON_INTERPRET"):
        print(
            "kernel-report: TRITON_INTERPRET must be unset, the interpreter compiles nothing", file=sys.stderr
        )
        return 2
    lists = [(MODELS, jobs, thresholds_path), *((o.MODELS, o.jobs, o.thresholds_path) for o in OTHER_OPS)]
    codes = []
    for models, op_jobs, path in lists:
        asked = tuple(model for model in args.model if model in models)
        if asked:
            codes.append(run_op(args, asked, op_jobs, path()))
    return max(codes)


def run_op(
    args: argparse.Namespace, models: tuple[str, ...], op_jobs: Callable[..., list], path: Path
) -> int:
    """The report of one op's models, against its own table at ``path``."""
    table = json.loads(path.read_text())
    todo = op_jobs(models, tuple(args.dtype), tuple(args.arch))
    versions = compilers()
    if versions != table["compilers"]:
        print(f"recorded with {table['compilers']}, these are {versions}", file=sys.stderr)
        if args.update and len(todo) < len(op_jobs()):
            print("kernel-report: --update with other compilers must be of all kernels", file=sys.stderr)
            return 2
    found = report(todo, table, max(args.jobs, 1), args.update)
    if args.update:
        table["compilers"] = versions
        order = {job.name: None for job in op_jobs()}  # kernels that are no longer on the list drop out
        table["facts"] = {name: table["facts"][name] for name in order if name in table["facts"]}
        path.write_text(dumps(table))
        print(f"wrote {path}")
    print(f"{len(todo)} kernels compiled (again only where Triton's cache had none), none of them run")
    for line in found:
        print(f"VIOLATION {line}")
    return 1 if found else 0


def dumps(table: dict[str, Any]) -> str:
    """JSON with one line a kernel, so that a change shows as one line."""
    head = {key: value for key, value in table.items() if key != "facts"}
    lines = ",\n".join(
        f"    {json.dumps(name)}: {json.dumps(facts)}" for name, facts in table["facts"].items()
    )
    return json.dumps(head, indent=2).removesuffix("\n}") + ',\n  "facts": {\n' + lines + "\n  }\n}\n"
