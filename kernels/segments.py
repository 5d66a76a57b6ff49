"""Ragged runs of tokens packed in one row: lengths, ids and cu_seqlens, and equal tiles that cover them."""

from typing import NamedTuple

import torch
from torch import Tensor


def lengths_to_cu_seqlens(lengths: Tensor) -> Tensor:
    """Tokens of each segment (G,) -> offsets (G + 1,) int32, 0 first."""
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def cu_seqlens_to_lengths(cu_seqlens: Tensor) -> Tensor:
    """Offsets (G + 1,) -> tokens of each segment (G,) int64."""
    return cu_seqlens.long().diff()


def cu_seqlens_to_ids(cu_seqlens: Tensor) -> Tensor:
    """Offsets (G + 1,) -> the segment of each token (N,) int64."""
    lengths = cu_seqlens_to_lengths(cu_seqlens)
    return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)


def ids_to_cu_seqlens(ids: Tensor, segments: int) -> Tensor:
    """Segment of each token, sorted, (N,) -> offsets (segments + 1,) int32."""
    edges = torch.arange(segments + 1, device=ids.device, dtype=ids.dtype)
    return torch.searchsorted(ids.contiguous(), edges).to(torch.int32)


def runs(ids: Tensor, segments: int) -> tuple[Tensor, Tensor]:
    """Any ids (N,) in 0 .. segments - 1 -> (order, cu_seqlens); ``ids[order]`` is sorted, stably."""
    order = torch.argsort(ids, stable=True)
    return order, ids_to_cu_seqlens(ids[order], segments)


def segment_counts(mask: Tensor | None, cu_seqlens: Tensor) -> Tensor:
    """Tokens of each segment that ``mask`` (N,) keeps, (G,) int64; None keeps all."""
    if mask is None:
        return cu_seqlens_to_lengths(cu_seqlens)
    before = torch.nn.functional.pad(mask.long().cumsum(0), (1, 0))
    return before[cu_seqlens.long()].diff()


class Tiles(NamedTuple):
    """Runs of at most T tokens, none across a segment's end; tiles of a segment are neighbours.

    segment (t,) int64: whose tokens.  index (t, T) int64: which tokens.  valid (t, T) bool: False where
    padded.
    """

    segment: Tensor
    index: Tensor
    valid: Tensor


def tiles(cu_seqlens: Tensor, size: int, among: Tensor | None = None) -> Tiles:
    """Cuts segments into tiles of ``size`` tokens, the last of each padded; empty segments get none.

    among: (G,) bool, the segments that are cut; None: all.
    """
    start, lengths = cu_seqlens[:-1].long(), cu_seqlens_to_lengths(cu_seqlens)
    if among is not None:
        lengths = lengths * among
    per_segment = (lengths + size - 1) // size
    segment = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), per_segment)
    first = torch.cumsum(per_segment, 0) - per_segment
    within = (torch.arange(len(segment), device=lengths.device) - first[segment]) * size
    offset = within.unsqueeze(1) + torch.arange(size, device=lengths.device)
    valid = offset < lengths[segment].unsqueeze(1)
    index = start[segment].unsqueeze(1) + torch.where(valid, offset, 0)
    return Tiles(segment, index, valid)
