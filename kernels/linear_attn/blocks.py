"""How the eager kernels cut their work: blocks of tokens small enough for a core's cache.

A block is seen as (t, h, T, .): t states or tiles of states, h heads, T tokens. Two plans make blocks:
``Rows`` (batch rows: views, no gather) and ``Packed`` (segments packed in one row: tiles that never cross a
segment's end, gathered).
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..segments import cu_seqlens_to_lengths, runs, segment_counts, tiles

# Elements of one scratch tensor for each CPU thread: 384 KiB of float32; four of them fit a core's L2.
CACHE_ELEMENTS = 3 << 15
DEVICE_ELEMENTS = 1 << 24  # elsewhere launches cost more than memory traffic
SHORTEST = 32  # tokens that the cache must hold of all heads, or heads are taken in groups
SHORT = 48  # tokens of a block even so: products over fewer cost more than what they miss in the cache
PACKED = 4  # caches in a block of tiles on a CPU: gathering costs calls, of which fewer are better
TILE_TOKENS = (8, 16, 32, 64, 128)  # of packed rows; longer segments have several of the longest


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
        self.copies = mask is not None
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

    def load(self, x: Tensor, scratch: Scratch, name: str, cleared: bool = True) -> Tensor:
        """The block of ``x`` (t, h, T, .) in the accumulation dtype, a copy; dropped tokens are 0."""
        view = self.tokens(x)
        loaded = scratch.take_like_tokens(name, *view.shape).copy_(view)
        return self.clear(loaded) if cleared else loaded

    def clear(self, x: Tensor) -> Tensor:
        """Dropped tokens become 0."""
        return x if self.drop is None else x.masked_fill_(self.drop, 0)

    def put(self, out: Tensor, value: Tensor) -> None:
        self.tokens(out).copy_(value)

    def put_product(self, out: Tensor, a: Tensor, b: Tensor) -> None:
        """out = a b; overwrites a."""
        if out.dtype == a.dtype:
            torch.mul(a, b, out=self.tokens(out))
        else:  # with out= of another dtype torch makes a temporary
            self.put(out, a.mul_(b))


class TileBlock:
    """Some tiles of packed segments, all of T tokens; their rows are gathered, one row a token and head.

    segment (t,): whose tokens.  index (t, T): which.  valid (t, T): False where padded with others of the
    segment.  Padding and tokens that ``mask`` (N,) drops are cleared.
    """

    def __init__(
        self, segment: Tensor, index: Tensor, valid: Tensor, mask: Tensor | None, heads: int, single: bool
    ) -> None:
        self.segment, self.index, self.heads, self.single = segment, index, heads, single
        self.copies = True
        self.valid, self.mask = valid, mask
        first, last = segment[[0, -1]].tolist()
        whole = single and len(segment) == last - first + 1
        self.range = slice(first, last + 1) if whole else None  # one tile each: states are views, not copies
        self.made: dict[tuple[int, int], Tensor] = {}

    def _rows_where(self, mask: Tensor) -> Tensor:
        """(t, T) bool -> numbers of the rows (t h T) of all heads where it holds."""
        return mask.unsqueeze(1).expand(-1, self.heads, -1).reshape(-1).nonzero().squeeze(1)

    @cached_property
    def valid_rows(self) -> Tensor:
        return self._rows_where(self.valid)

    @cached_property
    def dropped_rows(self) -> Tensor:
        return self._rows_where(~(self.valid if self.mask is None else self.valid & self.mask[self.index]))

    def rows(self, per_token: int, per_head: int) -> Tensor:
        """(t h T,) rows of a tensor in which the next token and the next head are so many rows further."""
        found = self.made.get((per_token, per_head))
        if found is None:
            heads = torch.arange(self.heads, device=self.index.device) * per_head
            found = (self.index.unsqueeze(1) * per_token + heads.unsqueeze(1)).flatten()
            self.made[per_token, per_head] = found
        return found

    def tokens(self, x: Tensor) -> Tensor:
        """(1, N, H, .) -> (t, h, T, .), a copy"""
        flat = self._flat(x)
        if flat is None:
            return x[0][self.index].transpose(1, 2)
        return torch.index_select(flat[0], 0, flat[1]).view(*self._shape(x))

    def _shape(self, x: Tensor) -> tuple[int, int, int, int]:
        return len(self.index), self.heads, self.index.shape[1], x.shape[3]

    def _flat(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """``x`` seen as rows of its last axis, and which of them are this block's; None where strides do not
        allow it. Views of a fused projection do.
        """
        _, tokens, heads, width = x.shape
        _, per_token, per_head, stride = x.stride()
        if stride != 1 or per_token % width or per_head % width:
            return None
        per_token, per_head = per_token // width, per_head // width
        count = (tokens - 1) * per_token + (heads - 1) * per_head + 1
        flat = x.as_strided((count, width), (width, 1), x.storage_offset())
        return flat, self.rows(per_token, per_head)

    def load(self, x: Tensor, scratch: Scratch, name: str, cleared: bool = True) -> Tensor:
        """The block of ``x`` as contiguous (t, h, T, .) in the accumulation dtype; dropped tokens are 0."""
        loaded = scratch.take(name, *self._shape(x))
        flat = self._flat(x) if x.dtype == scratch.dtype else None
        if flat is None:
            loaded.copy_(self.tokens(x))
        else:
            torch.index_select(flat[0], 0, flat[1], out=loaded.view(-1, x.shape[3]))
        return self.clear(loaded) if cleared else loaded

    def clear(self, x: Tensor) -> Tensor:
        """Contiguous (t, h, T, .), of which dropped tokens become 0."""
        x.view(-1, x.shape[3]).index_fill_(0, self.dropped_rows, 0)
        return x

    def table(self, x: Tensor) -> Tensor:
        return x[self.index].unsqueeze(1)

    def state(self, x: Tensor) -> Tensor:
        return self.term(x).flatten(0, 1)

    def term(self, x: Tensor) -> Tensor:
        return x[self.segment if self.range is None else self.range]

    def add(self, total: Tensor, part: Tensor) -> None:
        if self.range is not None:
            total[self.range] += part
        elif self.single:  # no segment twice, so the order of additions is fixed
            total.index_add_(0, self.segment, part)
        else:  # segment_reduce, not index_add: one fixed order of additions on every device
            states, tiles_of = torch.unique_consecutive(self.segment, return_counts=True)
            part = torch.segment_reduce(part.contiguous(), "sum", lengths=tiles_of, axis=0)
            total[states] += part

    def add_product(self, total: Tensor, a: Tensor, b: Tensor) -> None:
        if self.range is not None:
            self.state(total).baddbmm_(a.mT, b)
            return
        self.add(total, torch.bmm(a.mT, b).unflatten(0, (len(self.segment), -1)))

    def put(self, out: Tensor, value: Tensor) -> None:
        """Rows of tokens; ``out`` is contiguous."""
        width = out.shape[3]
        into = self.rows(self.heads, 1)[self.valid_rows]
        out.view(-1, width).index_copy_(0, into, value.reshape(-1, width)[self.valid_rows].to(out.dtype))

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
    """Blocks of a (1, N, H, .) tensor whose tokens belong to segments.

    A segment is one tile of the next size (powers of two), or several of the longest: so lengths that differ
    much cost little padding, and few states are sums over tiles.
    """

    def __init__(
        self, x: Tensor, width: int, mask: Tensor | None, cu_seqlens: Tensor, order: Tensor | None = None
    ) -> None:
        self.cu_seqlens, self.mask, self.heads = cu_seqlens, mask, x.shape[2]
        self.states = len(cu_seqlens) - 1
        room = budget(x) * (PACKED if x.device.type == "cpu" else 1)
        self.order, self.room = order, max(room // (width * x.shape[2]), 1)

    def counts(self, device: torch.device) -> Tensor:
        return segment_counts(None if self.mask is None else self.mask[0], self.cu_seqlens)

    def __iter__(self) -> Iterator[TileBlock]:
        lengths = cu_seqlens_to_lengths(self.cu_seqlens)
        sizes = torch.bucketize(lengths, torch.tensor(TILE_TOKENS[:-1], device=lengths.device))
        mask = None if self.mask is None else self.mask[0]
        for i in torch.unique(sizes[lengths > 0]).tolist():
            segment, index, valid = tiles(self.cu_seqlens, TILE_TOKENS[i], sizes == i)
            single = i + 1 < len(TILE_TOKENS) or int(lengths.max()) <= TILE_TOKENS[i]
            index = index if self.order is None else self.order[index]
            parts = (x.split(max(self.room // TILE_TOKENS[i], 1)) for x in (segment, index, valid))
            for block in zip(*parts, strict=True):
                yield TileBlock(*block, mask, self.heads, single)


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
