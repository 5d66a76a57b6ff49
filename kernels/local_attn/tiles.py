"""The grid cut in tiles of queries, each with the box of keys that its windows touch.

Tiles of equal size whose boxes are clipped alike by the grid's edges form a class: they share one mask, and
their boxes are one strided view of the keys, so nothing is indexed and nothing outside the grid is computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from .geometry import Geometry


@dataclass(frozen=True)
class Span:
    """Runs along one axis: ``count`` runs of ``size`` queries, ``step`` apart, and the keys they touch.

    start: first query of the first run. key_start, key_size: its keys. All runs are clipped alike.
    """

    start: int
    size: int
    count: int
    step: int
    key_start: int
    key_size: int


def spans(first: int, last: int, keys: int, reach: int, size: int) -> list[Span]:
    """Queries first .. last - 1 among ``keys`` places, in runs of ``size``; like ones together."""
    found: list[Span] = []
    for start in range(first, last, size):
        own = min(size, last - start)
        low, high = max(start - reach, 0), min(start + own + reach, keys)
        run = found[-1] if found else None
        if run and (own, low - start, high - low) == (run.size, run.key_start - run.start, run.key_size):
            found[-1] = Span(run.start, own, run.count + 1, size, run.key_start, run.key_size)
        else:
            found.append(Span(start, own, 1, size, low, high - low))
    return found


@dataclass(frozen=True)
class TileClass:
    """Tiles that are alike: spans of both axes."""

    y: Span
    x: Span

    @property
    def queries(self) -> int:
        return self.y.size * self.x.size

    @property
    def keys(self) -> int:
        return self.y.key_size * self.x.key_size

    def query_view(self, image: Tensor, first: int) -> Tensor:
        """(rows, width, ...) of queries -> (tiles_y, tiles_x, ..., size_y, size_x), a view."""
        rows = image.narrow(0, self.y.start - first, self.y.count * self.y.size)
        rows = rows.narrow(1, self.x.start, self.x.count * self.x.size)
        return rows.unfold(0, self.y.size, self.y.size).unfold(1, self.x.size, self.x.size)

    def key_view(self, image: Tensor) -> Tensor:
        """(rows, width, ...) of keys -> (tiles_y, tiles_x, ..., key_size_y, key_size_x), boxes overlap."""
        y, x = self.y, self.x
        box = image.narrow(0, y.key_start, (y.count - 1) * y.step + y.key_size)
        box = box.narrow(1, x.key_start, (x.count - 1) * x.step + x.key_size)
        return box.unfold(0, y.key_size, y.step).unfold(1, x.key_size, x.step)

    def hidden(self, g: Geometry, like: Tensor) -> Tensor | None:
        """(queries, keys): what to add to a tile's scores, 0 or -inf; None when every query sees all keys."""
        dy, dx = (
            (s.start + torch.arange(s.size, device=like.device))[:, None]
            - (s.key_start + torch.arange(s.key_size, device=like.device))
            for s in (self.y, self.x)
        )
        seen = (dy.abs() <= g.reach_y)[:, None, :, None] & (dx.abs() <= g.reach_x)[None, :, None, :]
        seen &= dy.square()[:, None, :, None] + dx.square()[None, :, None, :] <= g.limit
        seen = seen.flatten(2).flatten(0, 1)
        if bool(seen.all()):
            return None
        zero = torch.zeros(seen.shape, dtype=accumulation_dtype(like.dtype), device=like.device)
        return zero.masked_fill_(~seen, float("-inf"))


def classes(g: Geometry, size: int) -> Iterator[TileClass]:
    """Every query of the grid in exactly one tile of ``size`` x ``size``, cut at the edges."""
    columns = spans(0, g.width, g.width, g.reach_x, size)
    for y in spans(g.first, g.last, g.rows, g.reach_y, size):
        for x in columns:
            yield TileClass(y, x)
