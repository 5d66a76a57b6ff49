"""The scan in plain torch: whole chunks for what tokens do on their own, one in-place call a step otherwise.

Within a chunk of at most 64 steps a temporary holds every state; between chunks only the last ones are kept.
States are (S, channels), channels innermost, in float32 (float64 for float64). Works on every device.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from . import order
from .order import Chunk, Pattern

FLOOR = {torch.float32: -80.0, torch.float64: -700.0}


class Inputs(NamedTuple):
    """As the public function takes them, checked."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    initial: Tensor | None
    cu_seqlens: Tensor | None
    reverse: bool


class Room:
    """Temporaries (tokens, S, channels) that all chunks share, by name, and their views by step."""

    def __init__(self, like: Tensor, dtype: torch.dtype) -> None:
        self.like, self.dtype = like, dtype
        self.whole: dict[str, Tensor] = {}
        self.split: dict[str, tuple[Pattern, tuple[int, int], list[Tensor]]] = {}

    def take(self, name: str, tokens: int, size: int, channels: int) -> Tensor:
        count = tokens * size * channels
        if name not in self.whole or self.whole[name].numel() < count:
            self.whole[name] = self.like.new_empty(count, dtype=self.dtype)
            self.split.pop(name, None)
        return self.whole[name][:count].view(tokens, size, channels)

    def steps(self, name: str, x: Tensor, pattern: Pattern) -> list[Tensor]:
        """``x``, taken by that name, cut by step; the views of the chunk before where that was like this."""
        known = self.split.get(name)
        if known is None or known[0] is not pattern or known[1] != tuple(x.shape[1:]):
            known = (pattern, tuple(x.shape[1:]), [x[a:b] for a, b in pattern.steps])
            self.split[name] = known
        return known[2]


def kept_states(u: Tensor, cu_seqlens: Tensor | None) -> int:
    return order.kept_states(u.shape[0], u.shape[1], cu_seqlens is not None)


def channel_blocks(channels: int, size: int) -> Iterator[slice]:
    """Equal blocks of channels with which a chunk of one lane fits in the room."""
    number = -(-channels * size * order.CHUNK // order.ROOM)
    width = -(-channels // max(number, 1))
    return (slice(a, min(a + width, channels)) for a in range(0, channels, width))


def widest(channels: int, size: int) -> int:
    """Numbers that a token has in the widest block."""
    return next(channel_blocks(channels, size)).stop * size


class Block(NamedTuple):
    """One chunk's tokens in one block of channels: u, delta (tokens, 1, channels); B, C (tokens, S, 1)."""

    u: Tensor
    delta: Tensor
    B: Tensor
    C: Tensor


def rows_of(x: Tensor, chunk: Chunk, own: slice, dtype: torch.dtype) -> Tensor:
    return x.flatten(0, 1)[:, own].index_select(0, chunk.tokens).to(dtype)


def block_of(x: Inputs, chunk: Chunk, own: slice, dtype: torch.dtype) -> Block:
    u, delta = (rows_of(t, chunk, own, dtype).unsqueeze(1) for t in (x.u, x.delta))
    B, C = (rows_of(t, chunk, slice(None), dtype).unsqueeze(2) for t in (x.B, x.C))
    return Block(u, delta, B, C)


def walk(block: Block, A: Tensor, h: Tensor, pattern: Pattern, room: Room) -> tuple[Tensor, Tensor]:
    """(decays, states) of every token of a chunk that starts from states ``h`` (lanes, S, channels)."""
    shape = (len(block.u), *A.shape)
    a, states = room.take("a", *shape), room.take("h", *shape)
    torch.mul(block.delta, A, out=a).clamp_(min=FLOOR[a.dtype]).exp_()
    torch.mul(block.delta * block.u, block.B, out=states)
    before = h
    for own, decay in zip(room.steps("h", states, pattern), room.steps("a", a, pattern), strict=True):
        own.addcmul_(decay, before if len(before) == len(own) else before[: len(own)])
        before = own
    return a, states


def forward(x: Inputs, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, N, C) in u's dtype; states after the last tokens (R, C, S); states between chunks, if kept."""
    acc, u = accumulation_dtype(x.u.dtype), x.u
    channels, size = x.A.shape
    y = u.new_empty(u.shape)
    states = len(u) if x.cu_seqlens is None else len(x.cu_seqlens) - 1
    final = u.new_zeros((states, channels, size), dtype=acc) if x.initial is None else x.initial.clone()
    final = final.contiguous()
    kept = u.new_zeros((kept_states(u, x.cu_seqlens) if keep else 0, channels, size), dtype=acc)
    room = Room(u, acc)
    for lanes in order.lanes(u, x.cu_seqlens, x.reverse, widest(channels, size)):
        for own in channel_blocks(channels, size):
            A = x.A[own].to(acc).t().contiguous()
            D = None if x.D is None else x.D[own].to(acc)
            h = final[lanes.states, own].mT.contiguous()
            for chunk in lanes.chunks:
                if keep and chunk.kept is not None:
                    kept[chunk.kept : chunk.kept + chunk.lanes, own] = h[: chunk.lanes].mT
                block = block_of(x, chunk, own, acc)
                _, inner = walk(block, A, h, chunk.pattern, room)
                _take_ends(h, inner, chunk.pattern)
                out = torch.bmm(block.C.mT, inner)
                out = out if D is None else out.addcmul_(D, block.u)
                y.flatten(0, 1)[:, own].index_copy_(0, chunk.tokens, out.squeeze(1).to(y.dtype))
            final[lanes.states, own] = h.mT
    return y, final, kept


def _take_ends(h: Tensor, inner: Tensor, pattern: Pattern) -> None:
    """Writes each lane's state after its last token of the chunk into ``h``."""
    for step, first, last in pattern.ends:
        start = pattern.steps[step][0]
        h[first:last] = inner[start + first : start + last]
