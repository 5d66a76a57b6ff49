"""The scan in plain torch: whole chunks for what tokens do on their own, one in-place call a step otherwise.

Within a chunk of a few dozen steps a temporary holds every state; between chunks only the last ones are kept.
States are (S, channels), channels innermost, in float32 (float64 for float64). Works on every device.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from . import order
from .order import Pattern

# A CPU's exp takes 100 times as long where it underflows; next to any token's own input this is nothing.
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


class Cells(NamedTuple):
    """A temporary (tokens, S, channels) of a chunk, its views by step, and of what precedes each step."""

    whole: Tensor
    steps: list[Tensor]
    earlier: list[Tensor]


class Room:
    """Temporaries that chunks share, by name; the views of the chunk before serve one that is like it."""

    def __init__(self, like: Tensor, dtype: torch.dtype) -> None:
        self.like, self.dtype = like, dtype
        self.memory: dict[str, Tensor] = {}
        self.cells: dict[str, tuple[Pattern, Cells]] = {}

    def take(self, name: str, pattern: Pattern, size: int, channels: int) -> Cells:
        shape = (pattern.steps[-1][1], size, channels)
        known = self.cells.get(name)
        if known is not None and known[0] is pattern and known[1].whole.shape == shape:
            return known[1]
        count = shape[0] * size * channels
        if name not in self.memory or self.memory[name].numel() < count:
            self.memory[name] = self.like.new_empty(count, dtype=self.dtype)
        whole = self.memory[name][:count].view(shape)
        cells = Cells(whole, *([whole[a:b] for a, b in spans] for spans in (pattern.steps, pattern.earlier)))
        self.cells[name] = (pattern, cells)
        return cells


class Block(NamedTuple):
    """One chunk's tokens in one block of channels: u, delta (tokens, 1, channels); B, C (tokens, S, 1)."""

    u: Tensor
    delta: Tensor
    B: Tensor
    C: Tensor


class Columns(NamedTuple):
    """All tokens in one block of channels, as they were given: u, delta (B N, channels); B, C (B N, S).

    A: (S, channels) in ``dtype``.  steep: a decay may lie below the floor.
    """

    u: Tensor
    delta: Tensor
    B: Tensor
    C: Tensor
    A: Tensor
    steep: bool
    dtype: torch.dtype

    def at(self, tokens: Tensor | slice) -> Block:
        u, delta, B, C = (order.take_rows(x, tokens).to(self.dtype) for x in self[:4])
        return Block(u.unsqueeze(1), delta.unsqueeze(1), B.unsqueeze(2), C.unsqueeze(2))


def columns_of(x: Inputs, own: slice, dtype: torch.dtype) -> Columns:
    u, delta, B, C = (t.flatten(0, 1) for t in (x.u, x.delta, x.B, x.C))
    A = x.A[own].to(dtype).t().contiguous()
    extremes = [float(a) * float(b) for a in delta[:, own].aminmax() for b in A.aminmax()]
    steep = not min(extremes) >= FLOOR[dtype]  # NaN counts
    return Columns(u[:, own], delta[:, own], B, C, A, steep, dtype)


def kept_states(u: Tensor, cu_seqlens: Tensor | None) -> int:
    return order.kept_states(u.shape[0], u.shape[1], cu_seqlens is not None)


def channel_blocks(channels: int, size: int) -> Iterator[slice]:
    """Equal blocks of channels with which a chunk of one lane fits in the room."""
    number = -(-channels * size * order.CHUNK // order.ROOM)
    width = -(-channels // number)
    return (slice(a, min(a + width, channels)) for a in range(0, channels, width))


def widest(channels: int, size: int) -> int:
    """Numbers that a token has in the widest block."""
    return next(channel_blocks(channels, size)).stop * size


def walk(columns: Columns, block: Block, h: Tensor, pattern: Pattern, room: Room) -> tuple[Cells, Cells]:
    """(decays, states) of a chunk; its lanes start from the first of states ``h`` (lanes, S, channels)."""
    a, states = (room.take(name, pattern, *columns.A.shape) for name in ("a", "h"))
    torch.mul(block.delta, columns.A, out=a.whole)
    (a.whole.clamp_(min=FLOOR[columns.dtype]) if columns.steep else a.whole).exp_()
    torch.mul(block.delta * block.u, block.B, out=states.whole)
    states.steps[0].addcmul_(a.steps[0], h[: len(states.steps[0])])
    for state, decay, before in zip(states.steps[1:], a.steps[1:], states.earlier, strict=True):
        state.addcmul_(decay, before)
    return a, states


def forward(x: Inputs, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, N, C) in u's dtype; states after the last tokens (R, C, S); states between chunks, if kept."""
    acc, u = accumulation_dtype(x.u.dtype), x.u
    channels, size = x.A.shape
    y = u.new_empty(u.shape)
    states = len(u) if x.cu_seqlens is None else len(x.cu_seqlens) - 1
    final = u.new_zeros((states, channels, size), dtype=acc)
    if x.initial is not None:
        final.copy_(x.initial)
    kept = u.new_zeros((kept_states(u, x.cu_seqlens) if keep else 0, channels, size), dtype=acc)
    room = Room(u, acc)
    for lanes in order.lanes(u, x.cu_seqlens, x.reverse, widest(channels, size)):
        for own in channel_blocks(channels, size):
            D = None if x.D is None else x.D[own].to(acc)
            columns, result = columns_of(x, own, acc), y.flatten(0, 1)[:, own]
            h = final[lanes.states, own].mT.contiguous()
            for chunk in lanes.chunks:
                if keep and chunk.kept is not None:
                    kept[chunk.kept : chunk.kept + chunk.lanes, own] = h[: chunk.lanes].mT
                block = columns.at(chunk.tokens)
                _, inner = walk(columns, block, h, chunk.pattern, room)
                for step, first, stop in chunk.pattern.ends:
                    h[first:stop] = inner.steps[step][first:stop]
                out = torch.bmm(block.C.mT, inner.whole)
                out = out if D is None else out.addcmul_(D, block.u)
                order.put_rows(result, chunk.tokens, out.squeeze(1))
            final[lanes.states, own] = h.mT
    return y, final, kept
