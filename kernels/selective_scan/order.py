"""Which tokens are scanned side by side, and in which order.

Rows or segments are lanes that advance together, the longest first, so that the lanes which still have a
token are always the first ones: nothing is padded. Tokens lie step by step, in the order of lanes.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..segments import cu_seqlens_to_lengths

CHUNK = 32  # steps between two states that are kept, and those whose temporaries live at a time
ROOM = 1 << 18  # numbers in one temporary: a CPU's cache holds two


class Pattern(NamedTuple):
    """The lanes of a chunk's steps, as places among its tokens.

    steps: (start, stop) of each step.  earlier: of the tokens just before each step's, but the first's.
    ends: (step, first, stop) of lanes whose last token in the chunk is of that step.
    moves: (start, stop, earlier): tokens start .. stop - 1 follow those from ``earlier`` on.
    """

    steps: tuple[tuple[int, int], ...]
    earlier: tuple[tuple[int, int], ...]
    ends: tuple[tuple[int, int, int], ...]
    moves: tuple[tuple[int, int, int], ...]


class Chunk(NamedTuple):
    """Up to CHUNK steps of lanes. kept: where their states before it are kept; None: those are the first."""

    tokens: Tensor | slice
    pattern: Pattern
    lanes: int
    kept: int | None


class Lanes(NamedTuple):
    """Sequences side by side: the states that they are, and their chunks in order."""

    states: Tensor
    chunks: list[Chunk]


@lru_cache(maxsize=256)
def pattern(counts: tuple[int, ...]) -> Pattern:
    """Of steps with so many lanes each; counts never rise."""
    steps, earlier, ends, moves = [], [], [], []
    start = 0
    for i, count in enumerate(counts):
        if i:
            first, before = start, start - counts[i - 1]
            earlier.append((before, before + count))
            if moves and moves[-1][1] == start and moves[-1][2] + start - moves[-1][0] == before:
                first, _, before = moves.pop()
            moves.append((first, start + count, before))
        steps.append((start, start + count))
        after = counts[i + 1] if i + 1 < len(counts) else 0
        if after < count:
            ends.append((i, after, count))
        start += count
    return Pattern(*(tuple(x) for x in (steps, earlier, ends, moves)))


def kept_states(rows: int, tokens: int, packed: bool) -> int:
    """States between chunks of all lanes; of segments, the most that any lengths can need."""
    return tokens // CHUNK if packed else rows * ((tokens - 1) // CHUNK)


def lanes(u: Tensor, cu_seqlens: Tensor | None, reverse: bool, width: int) -> Iterator[Lanes]:
    """All sequences that have a token, in groups whose temporaries (``width`` a token) fit in ROOM."""
    if cu_seqlens is None:
        lengths = torch.full((u.shape[0],), u.shape[1], device=u.device)
        starts = torch.arange(u.shape[0], device=u.device) * u.shape[1]
    else:
        lengths, starts = cu_seqlens_to_lengths(cu_seqlens), cu_seqlens[:-1].long()
    longest = torch.argsort(lengths, descending=True, stable=True)
    sizes = lengths[longest].tolist()
    first = kept = 0
    while first < len(sizes) and sizes[first]:
        room = max(1, ROOM // (width * min(sizes[first], CHUNK)))
        own = [n for n in sizes[first : first + room] if n]
        states = longest[first : first + len(own)]
        tokens = _tokens(starts[states], lengths[states], reverse)
        alone = int(starts[states[0]]) if len(own) == 1 and not reverse else None
        chunks = list(_chunks(tokens, own, kept, alone))
        kept += sum(chunk.lanes for chunk in chunks[1:])
        first += len(own)
        yield Lanes(states, chunks)


def _tokens(starts: Tensor, lengths: Tensor, reverse: bool) -> Tensor:
    """Tokens of all lanes step by step, int64; lengths never rise."""
    lane = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    before = lengths.cumsum(0) - lengths
    step = torch.arange(len(lane), device=lengths.device) - before[lane]
    token = starts[lane] + (lengths[lane] - 1 - step if reverse else step)
    return token[torch.argsort(step, stable=True)]


def _chunks(tokens: Tensor, lengths: Sequence[int], kept: int, alone: int | None) -> Iterator[Chunk]:
    """``alone``: the first token of a single lane whose tokens are neighbours, which needs no gathering."""
    counts, alive = [], len(lengths)
    for step in range(lengths[0]):
        while lengths[alive - 1] <= step:
            alive -= 1
        counts.append(alive)
    start = 0
    for i in range(0, len(counts), CHUNK):
        own = tuple(counts[i : i + CHUNK])
        which = tokens[start : start + sum(own)] if alone is None else slice(alone + i, alone + i + len(own))
        yield Chunk(which, pattern(own), own[0], kept if i else None)
        kept += own[0] if i else 0
        start += sum(own)


def take_rows(x: Tensor, tokens: Tensor | slice) -> Tensor:
    return x[tokens] if isinstance(tokens, slice) else x.index_select(0, tokens)


def put_rows(x: Tensor, tokens: Tensor | slice, rows: Tensor) -> None:
    if isinstance(tokens, slice):
        x[tokens] = rows
    else:
        x.index_copy_(0, tokens, rows.to(x.dtype))
