"""accelerate for one run in this process: alone, or one of several that ``accelerate launch`` started."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..extras import need
from .log import Log


@contextmanager
def session(args: argparse.Namespace, extra: str) -> Iterator[tuple[Any, Log]]:
    """A run's accelerator and log, put away when the run ends, well or not.

    Args:
        args: ``report_to`` and those of ``make_accelerator`` are read.
        extra: the extra of linzoo that brings accelerate.
    """
    accelerator = make_accelerator(args, extra)
    log = Log(accelerator.is_main_process, args.report_to)
    try:
        yield accelerator, log
    finally:
        log.close()
        leave(accelerator)


def make_accelerator(args: argparse.Namespace, extra: str) -> Any:
    """Device, processes and precision as ``accelerate launch``, torchrun or nobody says.

    Args:
        args: ``device``, ``mixed_precision`` and ``grad_accum_steps`` are read.
        extra: the extra of linzoo that brings accelerate.
    Raises: ValueError for what this loop cannot do; ImportError without accelerate.
    """
    accelerate = need("accelerate", extra)
    try:
        accelerator = accelerate.Accelerator(
            cpu=args.device == "cpu",
            mixed_precision=args.mixed_precision,
            gradient_accumulation_steps=args.grad_accum_steps,
        )
    except ValueError as error:
        raise ValueError(f"--mixed-precision {args.mixed_precision}: {error}") from error
    fault = unfit(args, accelerator)
    if fault:
        leave(accelerator)
        raise ValueError(fault)
    return accelerator


def unfit(args: argparse.Namespace, accelerator: Any) -> str:
    """Why this loop cannot run there; empty when it can."""
    if args.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        return "--mixed-precision must be no or bf16 on the CPU, got fp16"
    kind = str(accelerator.distributed_type.value)
    if kind not in ("NO", "MULTI_GPU", "MULTI_CPU", "MULTI_XPU", "MULTI_NPU"):
        return f"accelerate's distributed_type must be plain data parallelism, got {kind}"
    return ""


def leave(accelerator: Any) -> None:
    """Forget accelerate's process-wide state: another run in this process may ask for another precision."""
    from accelerate.state import AcceleratorState, GradientState

    accelerator.end_training()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def agree(accelerator: Any, chosen: tuple[Path, Path | None]) -> tuple[Path, Path | None]:
    """The first process's choice: a folder's name holds the time."""
    if accelerator.num_processes == 1:
        return chosen
    from accelerate.utils import broadcast_object_list

    return tuple(broadcast_object_list(list(chosen)))


def gather(accelerator: Any, value: Any) -> list[Any]:
    """Every process's value, by rank."""
    if accelerator.num_processes == 1:
        return [value]
    from accelerate.utils import gather_object

    return gather_object([value])
