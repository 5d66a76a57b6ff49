"""Tile sizes by kernel, dtype and architecture: a table, not autotuning. Imports no triton.

They compile for sm_80, sm_90, sm_100 and gfx942 with no stack and no spills (`linzoo kernel-report`).
"""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, slots=True)
class Tile:
    """Output rows (or pairs) of one step, columns of the result, columns summed over; warps; stages."""

    rows: int
    columns: int
    depth: int = 16
    warps: int = 4
    stages: int = 2

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.columns}x{self.depth} w{self.warps} s{self.stages}"


# (kernel, bytes of an input element)
TILES: dict[tuple[str, int], Tile] = {
    ("conv", 2): Tile(64, 64, 64, stages=3),
    ("conv", 4): Tile(64, 64, 32),
    ("weight_gradient", 2): Tile(64, 64, 64, stages=3),
    ("weight_gradient", 4): Tile(32, 64, 64),
    ("depthwise", 2): Tile(32, 64),
    ("depthwise", 4): Tile(32, 64),
    ("depthwise_weight_gradient", 2): Tile(64, 64),
    ("depthwise_weight_gradient", 4): Tile(64, 64),
}

# The same, for one architecture where the row above leaves stack.
ARCH_TILES: dict[tuple[str, int, str], Tile] = {
    ("conv", 4, "sm_80"): Tile(64, 64, 16),
    ("conv", 4, "sm_100"): Tile(64, 64, 32, warps=8),
    ("depthwise", 2, "sm_80"): Tile(16, 64),
}


def tile_for(kernel: str, columns: int, depth: int, dtype: torch.dtype, arch: str) -> Tile:
    """The shipped tile; ``arch`` is "sm_80", "sm_90", "sm_100", "gfx942" or of their form."""
    row = (kernel, dtype.itemsize)
    tile = ARCH_TILES.get((*row, arch), TILES[row])
    return replace(tile, columns=min(tile.columns, padded(columns)), depth=min(tile.depth, padded(depth)))


def padded(width: int) -> int:
    """The power of two, 16 or more (a dot takes no less), that holds ``width``."""
    return max(16, 1 << (width - 1).bit_length())


def precision(dtype: torch.dtype, arch: str) -> str:
    """How operands are multiplied: as they are, but float32 ones on NVIDIA in three tf32 products."""
    return "tf32x3" if dtype == torch.float32 and arch.startswith("sm_") else "ieee"


def split_count(programs: int, pairs: int, processors: int) -> int:
    """Parts that a kernel cell's pairs are summed in: fill the device four times, 256 pairs or more each."""
    return max(1, min(-(-4 * processors // max(programs, 1)), pairs // max(256 * programs, 1)))
