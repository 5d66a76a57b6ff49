"""How the eager form cuts its work: some tiles of one class and some heads at a time, in a core's cache."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linear_attn.blocks import Scratch
from .geometry import Geometry
from .tiles import TileClass, classes

TILE = 8  # queries along each side of a tile
# Scores held at a time for each CPU thread: 1 MiB of float32. Elsewhere launches cost more than traffic.
CPU_SCORES, DEVICE_SCORES = 1 << 18, 1 << 24


def budget(device: torch.device) -> int:
    return CPU_SCORES * min(torch.get_num_threads(), 8) if device.type == "cpu" else DEVICE_SCORES


@dataclass(frozen=True)
class Block:
    """Tiles ``tiles`` of tile row ``row`` of a class, for heads ``heads`` of one batch item.

    Tokens are seen as (t, h, n, .): t tiles, h heads, n tokens of a tile or of its box of keys.
    """

    kind: TileClass
    row: int
    tiles: range
    heads: slice

    def _pick(self, view: Tensor) -> Tensor:
        """(tiles_y, tiles_x, H, ., y, x) -> (t, h, y, x, .)"""
        own = view[self.row, self.tiles.start : self.tiles.stop, self.heads]
        return own.permute(0, 1, 3, 4, 2)

    def queries(self, image: Tensor, first: int) -> Tensor:
        """(rows, width, H, .) -> (t, h, y, x, .), a view."""
        return self._pick(self.kind.query_view(image, first))

    def keys(self, image: Tensor) -> Tensor:
        return self._pick(self.kind.key_view(image))

    def add_to_keys(self, image: Tensor, part: Tensor) -> None:
        """image (rows, width, H, .) += part (t, h, keys of a box, .), whose boxes overlap: tile by tile."""
        own = self.keys(image)
        for target, value in zip(own.unbind(0), part.unbind(0), strict=True):
            target += value.unflatten(1, (self.kind.y.key_size, self.kind.x.key_size))


def image_blocks(g: Geometry, heads: int, shared: int, room: int) -> Iterator[tuple[TileClass, list[Block]]]:
    """All tiles and heads, by class; ``shared``: keys that every tile sees besides its box."""
    for kind in classes(g, TILE):
        scores = kind.queries * (kind.keys + shared)
        own_heads = max(min(heads, room // scores), 1)
        own_heads = -(-heads // -(-heads // own_heads))  # groups of equal size
        tiles = max(min(room // (scores * own_heads), kind.x.count), 1)
        for h in range(0, heads, own_heads):
            group = slice(h, min(h + own_heads, heads))
            yield (
                kind,
                [
                    Block(kind, row, range(x, min(x + tiles, kind.x.count)), group)
                    for row in range(kind.y.count)
                    for x in range(0, kind.x.count, tiles)
                ],
            )


class Gathered:
    """Buffers (t, h, box + shared, .) of a class: shared tokens are written once, boxes by every block."""

    def __init__(self, scratch: Scratch, name: str, image: Tensor, shared: Tensor, block: Block) -> None:
        """image (rows, width, H, .), shared (h, P, .) of the block's heads in the scratch's dtype."""
        heads, extra, width = shared.shape
        self.image, self.box = image, block.kind.keys
        self.whole = scratch.take(name, len(block.tiles), heads, self.box + extra, width)
        self.whole[:, :, self.box :] = shared

    def load(self, block: Block) -> Tensor:
        """(t h, box + shared, .)"""
        own = self.whole[: len(block.tiles)]
        source = block.keys(self.image)
        own[:, :, : self.box].unflatten(2, source.shape[2:4]).copy_(source)
        return own.flatten(0, 1)


def dense_rows(queries: int, keys: int, room: int) -> int:
    """Queries at a time that see all keys."""
    return min(queries, max(room // keys, 16))
