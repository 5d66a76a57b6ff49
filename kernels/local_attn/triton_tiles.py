"""Tile sizes by kernel, width, dtype and architecture: a table, not autotuning. Imports no triton.

The rows of widths 64 and 128 are what compiles for sm_80, sm_90, sm_100 and gfx942 with no stack and no
spills (`linzoo kernel-report`). They have been run on an H200, not timed.
"""

from dataclasses import dataclass

import torch

from ..linear_attn.triton_tiles import dot_precision, width_class

__all__ = ["Tile", "dot_precision", "split_count", "tile_for"]


@dataclass(frozen=True, slots=True)
class Tile:
    """Queries and keys of one step as rectangles (height, width) of the grid; warps; pipeline stages."""

    queries: tuple[int, int]
    keys: tuple[int, int]
    warps: int = 4
    stages: int = 2

    @property
    def name(self) -> str:
        (qy, qx), (ky, kx) = self.queries, self.keys
        return f"{qy}x{qx} on {ky}x{kx} w{self.warps} s{self.stages}"


# (kernel, bytes of a dot operand, width class): the larger of D and E, rounded up to 32, 64 or 128.
TILES: dict[tuple[str, int, int], Tile] = {
    ("forward", 2, 32): Tile((8, 8), (8, 8)),
    ("forward", 2, 64): Tile((8, 8), (8, 8)),
    ("forward", 2, 128): Tile((8, 8), (8, 8)),
    ("forward", 4, 32): Tile((8, 8), (4, 8)),
    ("forward", 4, 64): Tile((8, 8), (4, 8), warps=8),
    ("forward", 4, 128): Tile((4, 8), (4, 8), warps=8),
    ("query_gradient", 2, 32): Tile((8, 8), (8, 8)),
    ("query_gradient", 2, 64): Tile((8, 8), (8, 8)),
    ("query_gradient", 2, 128): Tile((8, 8), (4, 8), warps=8),
    ("query_gradient", 4, 32): Tile((8, 8), (4, 8)),
    ("query_gradient", 4, 64): Tile((4, 8), (4, 8)),
    ("query_gradient", 4, 128): Tile((4, 4), (4, 4), warps=8, stages=1),
    ("key_gradient", 2, 32): Tile((8, 8), (8, 8)),
    ("key_gradient", 2, 64): Tile((4, 8), (8, 8)),
    ("key_gradient", 2, 128): Tile((4, 8), (8, 8), warps=8),
    ("key_gradient", 4, 32): Tile((4, 8), (4, 8)),
    ("key_gradient", 4, 64): Tile((4, 8), (4, 8), warps=8),
    ("key_gradient", 4, 128): Tile((4, 4), (4, 4), warps=8, stages=1),
}

# The same, for one architecture where the row above leaves stack, or where a larger tile does not.
ARCH_TILES: dict[tuple[str, int, int, str], Tile] = {
    ("forward", 2, 128, "sm_80"): Tile((8, 8), (8, 8), warps=8),
    ("query_gradient", 2, 64, "sm_80"): Tile((8, 8), (4, 8)),
    ("forward", 4, 64, "sm_80"): Tile((8, 8), (4, 8), warps=8, stages=1),
    ("key_gradient", 4, 64, "sm_80"): Tile((4, 8), (4, 8), warps=8, stages=1),
    ("query_gradient", 4, 128, "sm_80"): Tile((4, 8), (4, 4), warps=8, stages=1),
    ("key_gradient", 2, 128, "gfx942"): Tile((4, 8), (8, 8), warps=8, stages=1),
    ("key_gradient", 4, 64, "gfx942"): Tile((4, 8), (4, 8), warps=8, stages=1),
    ("query_gradient", 4, 128, "gfx942"): Tile((4, 8), (4, 4), warps=8, stages=1),
    ("key_gradient", 4, 128, "gfx942"): Tile((4, 4), (4, 8), warps=8, stages=1),
}


def tile_for(kernel: str, key_dim: int, value_dim: int, dtype: torch.dtype, arch: str) -> Tile:
    """The shipped tile of a kernel; ``arch`` is "sm_80", "sm_90", "sm_100", "gfx942" or of their form."""
    row = (kernel, 2 if dtype == torch.bfloat16 else 4, width_class(key_dim, value_dim))
    return ARCH_TILES.get((*row, arch), TILES[row])


def split_count(programs: int, tokens: int, processors: int) -> int:
    """Parts of a long row of tokens: fill the device twice, 1,024 tokens or more each."""
    return max(1, min(-(-2 * processors // max(programs, 1)), tokens // 1024))
