"""Memory that is free now, and the high-water mark of what is used inside a block."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


def free_bytes(device: torch.device | str) -> int:
    """What can be allocated on ``device`` now without swapping. Raises: ValueError if it cannot be told."""
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        with open("/proc/meminfo") as file:
            line = next(line for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        raise ValueError('memory must be given in bytes: "auto" cannot tell what is free here') from None
    return int(line.split()[1]) * 1024


@dataclass(slots=True)
class Peak:
    """``bytes``: high-water mark over what was held at the start; 0 until the block has ended."""

    bytes: int = 0


@contextmanager
def measured(device: torch.device | str = "cpu") -> Iterator[Peak]:
    """Measure the block: torch's allocations on CUDA, the process's resident memory on a CPU.

    On a CPU the figure holds whatever else the process does, and what glibc's malloc keeps of freed tensors
    below 32 MB (``MALLOC_MMAP_THRESHOLD_=1048576`` in the environment gives them back at once).
    """
    peak, device = Peak(), torch.device(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    before = reset_mark()
    yield peak
    peak.bytes = max(mark() - before, 0)


def reset_mark() -> int:
    """Start the high-water mark anew where the system can. Returns: resident bytes."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:  # not Linux, or not allowed: the mark then starts at what loading took
        return mark()
    return status("VmRSS")


def mark() -> int:
    try:
        return status("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def status(field: str) -> int:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024
