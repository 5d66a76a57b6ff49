"""Voxels in groups of a fixed number, in an order that goes window by window: LION's sequences.

Arrays of ``slots`` stand for the tokens that an operator sees. A group holds voxels of one sample only.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...kernels import segment_gather
from ...kernels.segments import cu_seqlens_to_lengths, ids_to_cu_seqlens, lengths_to_cu_seqlens
from ..voxels import Voxels
from ..windows import Axis, Cells, window_order

Padding = Literal["repeat", "none"]
PADDINGS = ("repeat", "none")


class Slots(NamedTuple):
    """Tokens of the groups of sorted voxels, counted over all samples.

    place: (S,) int64, the sorted voxel that each slot holds.  own: (N,) int64, the slot of each sorted voxel
    (slots that repeat a voxel are no one's own).  cu_seqlens: (groups + 1,) int32 where groups differ in
    length; None where all are full.
    """

    place: Tensor
    own: Tensor
    cu_seqlens: Tensor | None


class Groups(NamedTuple):
    """The same for voxels in their own order: ``voxel`` (S,) and ``own`` (M,). size: voxels of a group."""

    voxel: Tensor
    own: Tensor
    cu_seqlens: Tensor | None
    size: int

    def tokens(self, features: Tensor) -> Tensor:
        """(M, C) -> (groups, size, C), or (1, S, C) where ``cu_seqlens`` bounds the groups."""
        slots = segment_gather(features, self.voxel)
        return slots.unsqueeze(0) if self.cu_seqlens is not None else slots.unflatten(0, (-1, self.size))

    def rows(self, tokens: Tensor) -> Tensor:
        """The way back: (M, C). What stands at repeated voxels is dropped."""
        return segment_gather(tokens.flatten(0, 1), self.own)


def padded_slots(lengths: Tensor, size: int) -> Slots:
    """Groups of ``size``; the empty slots of a sample's last group repeat those ``size`` places earlier.

    A sample of fewer than ``size`` voxels repeats them in turn, from its first.
    lengths: (B,) int64, voxels of each sample.
    """
    slots = -(-lengths // size) * size
    sample, within = places(slots)
    n = lengths[sample]
    again = torch.where(n > size, within - size, within % n.clamp(min=1))
    start = lengths.cumsum(0) - lengths
    own_sample, own_within = places(lengths)
    return Slots(
        place=start[sample] + torch.where(within < n, within, again),
        own=(slots.cumsum(0) - slots)[own_sample] + own_within,
        cu_seqlens=None,
    )


def packed_slots(lengths: Tensor, size: int) -> Slots:
    """Groups of ``size``, the last of a sample shorter where it does not divide: no voxel comes twice."""
    sample, within = places(-(-lengths // size))
    group = (lengths[sample] - within * size).clamp(max=size)
    place = torch.arange(len(places(lengths)[0]), device=lengths.device)
    return Slots(place=place, own=place, cu_seqlens=lengths_to_cu_seqlens(group))


def places(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths (B,) of runs -> of each element, its run and its place in it."""
    run = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    start = lengths.cumsum(0) - lengths
    return run, torch.arange(len(run), device=lengths.device) - start[run]


def group(
    voxels: Voxels,
    window: Cells,
    size: int,
    *,
    axis: Axis,
    shifted: bool = False,
    padding: Padding = "repeat",
) -> Groups:
    """Groups of ``size`` voxels in the order of ``window_order``; kept in the cache of the voxels.

    padding: "repeat" fills a sample's last group with voxels that come twice, as published: they feed the
    recurrence like any other. "none" leaves that group short.
    """
    check_group(size, padding)

    def make() -> Groups:
        order = window_order(voxels, window, axis=axis, shifted=shifted)
        slots = voxels.cached(("slots", size, padding), lambda: slots_of(voxels, size, padding))
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        return Groups(order[slots.place], slots.own[rank], slots.cu_seqlens, size)

    return voxels.cached(("groups", window, size, axis, shifted, padding), make)


def slots_of(voxels: Voxels, size: int, padding: Padding) -> Slots:
    sample = voxels.coords[:, 0].sort().values
    lengths = cu_seqlens_to_lengths(ids_to_cu_seqlens(sample, voxels.batch_size))
    return (padded_slots if padding == "repeat" else packed_slots)(lengths, size)


def check_group(size: int, padding: str) -> None:
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"group must be a whole number of voxels >= 1, got {size!r}")
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {PADDINGS}, got {padding!r}")
