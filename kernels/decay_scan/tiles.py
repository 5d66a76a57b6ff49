"""How the eager scan cuts its work: tiles of C tokens, in rounds that meet only through states.

Round r holds the r-th tile of every state that has one. States are sorted by their number of tiles, so the
states of a round are the first n of them. A group is some neighbouring rounds, seen as (t, H, C, .); a sweep
is the groups of some states.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..segments import cu_seqlens_to_lengths

# Of one (t, H, C, .) tensor for each CPU thread; half a dozen are alive. Fewer cost more calls than they save
# cache misses.
CACHE_ELEMENTS = 1 << 18
DEVICE_ELEMENTS = 1 << 24  # elsewhere launches cost more than memory traffic


def budget(x: Tensor) -> int:
    return CACHE_ELEMENTS * min(torch.get_num_threads(), 8) if x.device.type == "cpu" else DEVICE_ELEMENTS


class RowGroup:
    """Rounds of equally long rows: ``count`` tiles of C tokens from the scan's position ``first`` on.

    ``length`` is C, rounded up to a power of two with zeros where ``padded``.
    """

    def __init__(self, rows: slice, first: int, count: int, tokens: int, reverse: bool, padded: bool) -> None:
        self.rows, self.first, self.count, self.tokens, self.reverse = rows, first, count, tokens, reverse
        self.length = 1 << (tokens - 1).bit_length() if padded else tokens
        self.rounds = [rows.stop - rows.start] * count

    def _view(self, x: Tensor) -> Tensor:
        """(B, N, H, .) -> (n, B, H, C, .), without a copy unless reversed."""
        a, b = self.first, self.first + self.count * self.tokens
        if self.reverse:
            n = x.shape[1]
            x = x[self.rows, n - b : n - a].flip(1)
        else:
            x = x[self.rows, a:b]
        return x.view(len(x), self.count, self.tokens, *x.shape[2:]).permute(1, 0, 3, 2, 4)

    def load(self, x: Tensor, dtype: torch.dtype, by_channel: bool = False) -> Tensor:
        """(B, N, H, d) -> contiguous (t, H, C, d), ``by_channel`` (t, H, d, C); 0 where padded."""
        view = self._view(x)
        n, b, h, c, d = view.shape
        make = torch.empty if c == self.length else torch.zeros
        shape = (d, self.length) if by_channel else (self.length, d)
        loaded = make(n, b, h, *shape, dtype=dtype, device=x.device)
        tokens = loaded.mT if by_channel else loaded
        tokens[:, :, :, :c].copy_(view)
        return loaded.flatten(0, 1)

    def put(self, out: Tensor, value: Tensor, by_channel: bool = False) -> None:
        """(t, H, C, d), ``by_channel`` (t, H, d, C), into (B, N, H, d)."""
        value = value.mT if by_channel else value
        a, b = self.first, self.first + self.count * self.tokens
        value = value[:, :, : self.tokens].unflatten(0, (self.count, -1)).permute(1, 0, 3, 2, 4)
        if self.reverse:
            n = out.shape[1]
            a, b, value = n - b, n - a, value.flip(1, 2)
        out[self.rows, a:b].unflatten(1, (self.count, self.tokens)).copy_(value)


class PackedGroup:
    """Rounds of segments packed in one row; tokens are gathered, ends of segments padded with zeros."""

    def __init__(self, rounds: list[int], index: Tensor, valid: Tensor) -> None:
        self.rounds, self.valid = rounds, valid
        self.length = index.shape[1]
        self.index, self.places = index.flatten(), valid.flatten().nonzero().squeeze(1)
        self.padded = len(self.places) < len(self.index)

    def load(self, x: Tensor, dtype: torch.dtype, by_channel: bool = False) -> Tensor:
        tokens = x[0].index_select(0, self.index)
        tokens = tokens.unflatten(0, self.valid.shape).transpose(1, 2)  # (t, H, C, d)
        mask = ~self.valid[:, None, :, None]
        if by_channel:
            tokens, mask = tokens.mT, mask.mT
        loaded = torch.empty(tokens.shape, dtype=dtype, device=x.device).copy_(tokens)
        return loaded.masked_fill_(mask, 0) if self.padded else loaded

    def put(self, out: Tensor, value: Tensor, by_channel: bool = False) -> None:
        value = value.mT if by_channel else value
        tokens = value.transpose(1, 2).flatten(0, 1).to(out.dtype)
        index = self.index
        if self.padded:
            tokens, index = tokens.index_select(0, self.places), index.index_select(0, self.places)
        out[0].index_copy_(0, index, tokens)


Group = RowGroup | PackedGroup


class Sweep:
    """Some states, from ``states.start`` to ``states.stop``, and their groups in the order of the scan."""

    def __init__(self, states: slice, groups: list[Group]) -> None:
        self.states, self.groups = states, groups


class Rows:
    """(B, N, H, .) tensors, one state a row."""

    order: Tensor | None = None

    def __init__(self, x: Tensor, width: int, chunk: int, reverse: bool, padded: bool) -> None:
        self.shape, self.reverse, self.padded = x.shape, reverse, padded
        self.chunk = min(chunk, x.shape[1])
        self.tile = x.shape[2] * self.chunk * width
        self.states, self.budget = x.shape[0], budget(x)

    def __iter__(self) -> Iterator[Sweep]:
        rows, tokens = self.shape[:2]
        full, rest = divmod(tokens, self.chunk)
        held, rounds = max(self.budget // self.tile, 1), full + (rest > 0)
        step = min(rows, held // rounds or held)  # whole rows in one group if they fit: none is done twice
        for b in range(0, rows, step):
            own = slice(b, min(b + step, rows))
            at_once = max(self.budget // (self.tile * (own.stop - own.start)), 1)
            groups: list[Group] = []
            for r in range(0, full, at_once):
                count = min(at_once, full - r)
                groups.append(self._group(own, r * self.chunk, count, self.chunk))
            if rest:
                groups.append(self._group(own, full * self.chunk, 1, rest))
            yield Sweep(own, groups)

    def _group(self, rows: slice, first: int, count: int, tokens: int) -> RowGroup:
        return RowGroup(rows, first, count, tokens, self.reverse, self.padded)


class Packed:
    """A (1, N, H, .) tensor whose tokens belong to segments; ``order`` (G,) is the sorting of the states."""

    def __init__(self, x: Tensor, width: int, chunk: int, reverse: bool, cu_seqlens: Tensor) -> None:
        lengths = cu_seqlens_to_lengths(cu_seqlens)
        self.chunk = min(chunk, 1 << max(int(lengths.max()) - 1, 0).bit_length())
        count = (lengths + self.chunk - 1) // self.chunk
        self.order = torch.argsort(count, descending=True, stable=True)
        self.start, self.length, self.count = cu_seqlens[:-1].long()[self.order], lengths[self.order], count
        self.count = count[self.order]
        self.reverse, self.states = reverse, len(lengths)
        self.step = max(budget(x) // (x.shape[2] * self.chunk * width), 1)  # tiles

    def __iter__(self) -> Iterator[Sweep]:
        counts = self.count.tolist()
        for s in range(0, self.states, self.step):
            own = slice(s, min(s + self.step, self.states))
            tiles = counts[own]
            active = [sum(n > r for n in tiles) for r in range(tiles[0])]
            yield Sweep(own, list(self._groups(own, active)))

    def _groups(self, states: slice, active: list[int]) -> Iterator[PackedGroup]:
        """Rounds ``active`` states long, as many at a time as the budget holds."""
        first = 0
        while first < len(active):
            last = first + 1
            while last < len(active) and sum(active[first : last + 1]) <= self.step:
                last += 1
            parts = [self._tokens(states, r, active[r]) for r in range(first, last)]
            index, valid = (torch.cat(x) for x in zip(*parts, strict=True))
            yield PackedGroup(active[first:last], index, valid)
            first = last

    def _tokens(self, states: slice, r: int, n: int) -> tuple[Tensor, Tensor]:
        """Where the tokens of round r of the first n states are, (n, C), and which of them exist."""
        start, length = (x[states][:n].unsqueeze(1) for x in (self.start, self.length))
        position = torch.arange(r * self.chunk, (r + 1) * self.chunk, device=start.device)
        valid = position < length
        position = torch.where(valid, position, 0)
        return start + (length - 1 - position if self.reverse else position), valid


def plan(
    x: Tensor, width: int, chunk: int, reverse: bool, padded: bool, cu_seqlens: Tensor | None
) -> Rows | Packed:
    """The tiles of (B, N, H, .) tensors; ``padded`` makes every tile's length a power of two."""
    if padded:
        chunk = 1 << (chunk.bit_length() - 1)
    if cu_seqlens is None:
        return Rows(x, width, chunk, reverse, padded)
    return Packed(x, width, chunk, reverse, cu_seqlens)
