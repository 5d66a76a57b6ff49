"""One kernel call as data, how it is launched or recorded, and what every launcher asks of its inputs."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import BackendError
from ..triton_available import why_not
from .triton_tiles import Tile, dot_precision, tile_for


@dataclass(frozen=True)
class Launch:
    """One kernel call, complete: what is launched here is also what the compile report compiles."""

    kernel: Any
    grid: tuple[int, ...]
    args: dict[str, Any]
    constants: dict[str, Any]
    tile: Tile

    def run(self) -> None:
        self.kernel[self.grid](
            **self.args, **self.constants, num_warps=self.tile.warps, num_stages=self.tile.stages
        )


_recorded: list[Launch] | None = None
_recorded_arch = ""


@contextmanager
def recording(arch: str) -> Iterator[list[Launch]]:
    """Inside, launchers take meta tensors, choose tiles for ``arch`` and list their calls, unrun."""
    global _recorded, _recorded_arch
    _recorded, _recorded_arch = [], arch
    try:
        yield _recorded
    finally:
        _recorded = None


def launch(device: torch.device, call: Launch) -> None:
    if _recorded is not None:
        _recorded.append(call)
    elif all(call.grid):
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            call.run()


def arch_of(device: torch.device) -> str:
    if _recorded is not None:
        return _recorded_arch
    if device.type != "cuda":
        return "sm_90"  # the interpreter has no architecture: take the tiles of one that ships
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8


def check(op: str, x: Tensor) -> None:
    reason = None if _recorded is not None else why_not(x)
    if reason:
        raise BackendError(f"{op}: backend 'triton' cannot run: {reason}")


def ready(x: Tensor, like: Tensor | None = None) -> Tensor:
    """x with a unit stride on its last axis, in ``like``'s dtype; a view when it is one already."""
    x = x if like is None else x.to(like.dtype)
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _steps(x: Tensor) -> list[int]:
    """Strides of all axes but the last, 0 where an axis has one entry (its stride may be anything)."""
    return [0 if size == 1 else step for size, step in zip(x.shape[:3], x.stride()[:3], strict=True)]


def strides_of(**tensors: Tensor) -> tuple[dict[str, int], int]:
    """Kernel arguments {name + b|n|h: stride / ALIGN} and ALIGN, the step that all of them share."""
    steps = {
        name + axis: step for name, x in tensors.items() for axis, step in zip("bnh", _steps(x), strict=True)
    }
    align = 8 if all(step % 8 == 0 for step in steps.values()) else 1
    return {name: step // align for name, step in steps.items()}, align


def common(
    kernel: str, x: Tensor, value_dim: int, feature: str, centered: bool, align: int
) -> tuple[Tile, dict]:
    key_dim, heads = x.shape[-1], x.shape[2]
    target = arch_of(x.device)
    tile = tile_for(kernel, key_dim, value_dim, x.dtype, target)
    constants = {
        "H": heads,
        "D": key_dim,
        "E": value_dim,
        "FEATURE": feature,
        "CENTERED": centered,
        "ALIGN": align,
        "BN": tile.tokens,
        "BD": tile.keys,
        "BE": tile.values,
        "PRECISION": dot_precision(x, target),
    }
    return tile, constants
