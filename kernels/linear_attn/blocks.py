"""How the eager kernels cut their work: blocks of tokens small enough for a core's cache.

A block is seen as (t, h, T, .): t states or tiles of states, h heads, T tokens. Two plans make blocks:
``Rows`` (batch rows: views, no gather) and ``Packed`` (segments packed in one row: tiles that never cross a
segment's end, gathered).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..segments import runs, segment_counts, tiles

# Elements of one scratch tensor for each CPU thread: 384 KiB of float32; four of them fit a core's L2.
CACHE_ELEMENTS = 3 << 15
DEVICE_ELEMENTS = 1 << 24  # elsewhere launches cost more than memory traffic
SHORTEST = 32  # tokens that the cache must hold of all heads, or heads are taken in groups
SHORT = 48  # tokens of a block even so: products over fewer cost more than what they miss in the cache
TILE_TOKENS = (8, 128)  # shortest and longest tile of a packed row


class Scratch:
    """Named buffers in the accumulation dtype, kept from block to block."""

    def __init__(self, like: Tensor, dtype: torch.dtype) -> None:
        self.device, self.dtype = like.device, dtype
        self.flat: dict[str, Tensor] = {}
        self.shaped: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """A contiguous tensor of that shape, contents undefined; a name's first caller wants the most."""
        last = self.shaped.get(name)
        if last is not None and last.shape == shape:
            return last
        size = 1
        for length in shape:
            size *= length
        flat = self.flat.get(name)
        if flat is None or flat.numel() < size:
            flat = self.flat[name] = torch.empty(size, device=self.device, dtype=self.dtype)
        self.shaped[name] = flat[:size].view(shape)
        return self.shaped[name]

    def take_like_tokens(self, name: str, t: int, h: int, length: int, width: int) -> Tensor:
        """(t, h, T, .) that lies in memory as the inputs do, where that costs no copy later."""
        if t > 1:
            return self.take(name, t, h, length, width)
        return self.take(name, t, length, h, width).transpose(1, 2)


def budget(x: Tensor) -> int:
    """Elements of a block: a cache's worth for each thread that will share the block's work."""
    return CACHE_ELEMENTS * min(torch.get_num_threads(), 8) if x.device.type == "cpu" else DEVICE_ELEMENTS


class Group:
    """Some rows and heads of a batch, and the views that its blocks share (made once: views cost time
    too).
    """

    def __init__(self, rows: slice, heads: slice, step: int) -> None:
        self.rows, self.heads, self.step = rows, heads, step
        self.made: dict[tuple[str, int], tuple[Tensor, Any]] = {}  # keeps x, so that its id stays its own

    def once(self, kind: str, x: Tensor, make: Callable[[Tensor], Any]) -> Any:
        found = self.made.get((kind, id(x)))
        if found is None:
            found = self.made[kind, id(x)] = (x, make(x))
        return found[1]


class RowBlock:
    """The tokens of chunk ``i`` of a group; every view is without a copy."""

    def __init__(self, group: Group, i: int, mask: Tensor | None) -> None:
        self.group, self.i = group, i
        self.drop = None
        if mask is not None:
            self.drop = ~mask[group.rows, None, i * group.step : (i + 1) * group.step, None]

    def tokens(self, x: Tensor) -> Tensor:
        """(B, N, H, .) -> (t, h, T, .)"""
        g = self.group
        return g.once("tokens", x, lambda x: x[g.rows, :, g.heads].transpose(1, 2).split(g.step, 2))[self.i]

    def table(self, x: Tensor) -> Tensor:
        """(N, D) -> (T, D)"""
        return self.group.once("table", x, lambda x: x.split(self.group.step))[self.i]

    def state(self, x: Tensor) -> Tensor:
        """(R, H, ...) -> (t h, ...)"""
        g = self.group
        return g.once("state", x, lambda x: x[g.rows, g.heads].flatten(0, 1))

    def term(self, x: Tensor) -> Tensor:
        """(R, H, 1, 1) -> (t, h, 1, 1)"""
        g = self.group
        return g.once("term", x, lambda x: x[g.rows, g.heads])

    def add(self, total: Tensor, part: Tensor) -> None:
        """total (R, H, ...) += part (t, h, ...)"""
        self.term(total).add_(part)

    def add_product(self, total: Tensor, a: Tensor, b: Tensor) -> None:
        """total (R, H, D, E) += a^T b; a (t h, T, D), b (t h, T, E)"""
        self.state(total).baddbmm_(a.mT, b)

    def put(self, out: Tensor, value: Tensor) -> None:
        self.tokens(out).copy_(value)

    def put_product(self, out: Tensor, a: Tensor, b: Tensor) -> None:
        """out = a b; overwrites a."""
        if out.dtype == a.dtype:
            torch.mul(a, b, out=self.tokens(out))
        else:  # with out= of another dtype torch makes a temporary
            self.put(out, a.mul_(b))


class TileBlock:
    """Some neighbouring tiles of a packed row."""

    def __init__(self, segment: Tensor, index: Tensor, valid: Tensor, mask: Tensor | None) -> None:
        self.segment, self.index, self.valid = segment, index, valid
        self.drop = ~(valid if mask is None else valid & mask[0][index])[:, None, :, None]
        self.states, self.tiles_of = torch.unique_consecutive(segment, return_counts=True)
        first, last = (int(i) for i in segment[[0, -1]])
        whole = len(self.states) == len(segment) == last - first + 1
        self.range = slice(first, last + 1) if whole else None  # one tile each: states are views, not copies

    def tokens(self, x: Tensor) -> Tensor:
        return x[0][self.index].transpose(1, 2)

    def table(self, x: Tensor) -> Tensor:
        return x[self.index].unsqueeze(1)

    def state(self, x: Tensor) -> Tensor:
        return self.term(x).flatten(0, 1)

    def term(self, x: Tensor) -> Tensor:
        return x[self.segment if self.range is None else self.range]

    def add(self, total: Tensor, part: Tensor) -> None:
        if self.range is not None:
            total[self.range] += part
            return
        # segment_reduce, not index_add: one fixed order of additions on every device
        total[self.states] += torch.segment_reduce(part.contiguous(), "sum", lengths=self.tiles_of, axis=0)

    def add_product(self, total: Tensor, a: Tensor, b: Tensor) -> None:
        if self.range is not None:
            self.state(total).baddbmm_(a.mT, b)
            return
        self.add(total, torch.bmm(a.mT, b).unflatten(0, (len(self.segment), -1)))

    def put(self, out: Tensor, value: Tensor) -> None:
        out[0][self.index[self.valid]] = value.transpose(1, 2)[self.valid].to(out.dtype)

    def put_product(self, out: Tensor, a: Tensor, b: Tensor) -> None:
        self.put(out, a.mul_(b))


class Rows:
    """Blocks of (B, N, H, .) tensors, one state a row."""

    def __init__(self, x: Tensor, width: int, mask: Tensor | None) -> None:
        self.shape, self.mask = x.shape[:3], mask
        rows, tokens, heads = self.shape
        room = max(budget(x) // width, 1)  # (token, head) pairs in a block
        groups = -(-heads // max(room // SHORTEST, 1))  # fewer heads at a time rather than short products
        self.heads = -(-heads // groups)
        self.tokens = min(tokens, max(room // self.heads, SHORT))
        whole = self.heads == heads and self.tokens == tokens
        self.rows = min(rows, max(room // (heads * tokens), 1)) if whole else 1
        self.states = rows

    def counts(self, device: torch.device) -> Tensor:
        if self.mask is not None:
            return self.mask.sum(1)
        return torch.full((self.shape[0],), self.shape[1], device=device, dtype=torch.int64)

    def __iter__(self) -> Iterator[RowBlock]:
        rows, tokens, heads = self.shape
        for b in range(0, rows, self.rows):
            for h in range(0, heads, self.heads):
                own = slice(b, min(b + self.rows, rows)), slice(h, min(h + self.heads, heads))
                group = Group(*own, self.tokens)
                for i in range(-(-tokens // self.tokens)):
                    yield RowBlock(group, i, self.mask)


class Packed:
    """Blocks of a (1, N, H, .) tensor whose tokens belong to segments."""

    def __init__(
        self, x: Tensor, width: int, mask: Tensor | None, cu_seqlens: Tensor, order: Tensor | None = None
    ) -> None:
        self.cu_seqlens, self.mask = cu_seqlens, mask
        self.states = len(cu_seqlens) - 1
        typical = max(x.shape[1] // self.states, 1)
        low, high = TILE_TOKENS
        self.tile = min(max(1 << (typical - 1).bit_length(), low), high)
        self.segment, index, self.valid = tiles(cu_seqlens, self.tile)
        self.index = index if order is None else order[index]
        self.step = max(budget(x) // (width * x.shape[2] * self.tile), 1)

    def counts(self, device: torch.device) -> Tensor:
        return segment_counts(None if self.mask is None else self.mask[0], self.cu_seqlens)

    def __iter__(self) -> Iterator[TileBlock]:
        parts = (x.split(self.step) for x in (self.segment, self.index, self.valid))
        for segment, index, valid in zip(*parts, strict=True):
            yield TileBlock(segment, index, valid, self.mask)


def plan(
    x: Tensor,
    width: int,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    state_index: Tensor | None = None,
    states: int = 0,
) -> Rows | Packed:
    """The blocks for (B, N, H, .) tensors whose widest last dimension is ``width``."""
    if state_index is not None:
        order, bounds = runs(state_index, states)
        return Packed(x, width, mask, bounds, order)
    return Rows(x, width, mask) if cu_seqlens is None else Packed(x, width, mask, cu_seqlens)
