"""Host side of the Triton kernel: what eager.py has, on tensors, without autograd."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linear_attn.triton_plan import Launch, check, launch
from ..segments import runs
from .triton_kernels import run_sum_kernel

SPAN = 512  # rows that one program adds up; longer segments are summed in pieces, then the pieces


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows and channels of one step; warps; pipeline stages."""

    rows: int = 16
    channels: int = 64
    warps: int = 4
    stages: int = 2

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.channels} w{self.warps} s{self.stages}"


TILE = Tile()


def segment_sum(x: Tensor, index: Tensor, segments: int) -> Tensor:
    """x (N, C...), index (N,) -> (segments, C...) in x's dtype, added up in float32."""
    check("segment_sum", x)
    rows = x.shape[0]
    x, shape = x.reshape(rows, math.prod(x.shape[1:])).contiguous(), (segments, *x.shape[1:])
    order, offsets = runs(index, segments)
    y = x.new_empty(segments, x.shape[1])
    if rows <= SPAN:
        _sum_runs(x, order, offsets[:-1], offsets[1:], y)
        return y.view(shape)
    own, first, last = pieces(offsets, rows)
    parts = x.new_empty((len(first), x.shape[1]), dtype=torch.float32)
    _sum_runs(x, order, first, last, parts)
    _sum_runs(parts, None, own[:-1], own[1:], y)
    return y.view(shape)


def pieces(offsets: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Runs cut into pieces of at most SPAN rows: (pieces of each run as offsets, first row, last row + 1).

    Their number is an upper bound, which needs no look at the data; the pieces that are too many are empty.
    """
    segments = len(offsets) - 1
    counts = (offsets.diff() + SPAN - 1) // SPAN
    own = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
    number = torch.arange(segments + rows // SPAN, device=offsets.device, dtype=torch.int32)
    segment = torch.searchsorted(own[1:].contiguous(), number, right=True).clamp(max=segments - 1)
    first = offsets[segment] + (number - own[segment]) * SPAN
    return own, first, torch.minimum(first + SPAN, offsets[segment + 1])


def _sum_runs(x: Tensor, order: Tensor | None, first: Tensor, last: Tensor, y: Tensor) -> None:
    channels = x.shape[1]
    args = {"x": x, "order": order, "first": first.contiguous(), "last": last.contiguous(), "y_out": y}
    constants = {"C": channels, "BR": TILE.rows, "BC": TILE.channels}
    grid = (y.shape[0], -(-channels // TILE.channels))
    launch(x.device, Launch(run_sum_kernel, grid, args, constants, TILE))


def segment_gather(x: Tensor, index: Tensor) -> Tensor:
    """x (S, C...), index (N,) -> (N, C...); torch's own gather, whose reads need no kernel of ours."""
    check("segment_gather", x)
    return x.index_select(0, index)
