"""Tile sizes by kernel, width, dtype and architecture: a table, not autotuning. Imports no triton.

The rows are what compiles for sm_80, sm_90, sm_100 and gfx942 with no stack and no spills (`linzoo
kernel-report`). They have been run on an H200, not timed.
"""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, slots=True)
class Tile:
    """Tokens, key and value columns of one step; warps; pipeline stages; token blocks of a program."""

    tokens: int
    keys: int
    values: int
    warps: int = 4
    stages: int = 2
    steps: int = 1


# (kernel, bytes of a dot operand, width class): the larger of D and E, rounded up to 32, 64 or 128.
TILES: dict[tuple[str, int, int], Tile] = {
    ("accumulate", 2, 32): Tile(64, 32, 32),
    ("accumulate", 2, 64): Tile(64, 64, 64),
    ("accumulate", 2, 128): Tile(64, 64, 64, warps=8),
    ("accumulate", 4, 32): Tile(32, 32, 32),
    ("accumulate", 4, 64): Tile(32, 64, 32),
    ("accumulate", 4, 128): Tile(32, 64, 32, warps=8),
    ("reduce_backward", 2, 32): Tile(64, 32, 32),
    ("reduce_backward", 2, 64): Tile(64, 64, 64),
    ("reduce_backward", 2, 128): Tile(64, 64, 64, warps=8, stages=1),
    ("reduce_backward", 4, 32): Tile(32, 32, 32),
    ("reduce_backward", 4, 64): Tile(32, 32, 32, warps=8, stages=1),
    ("reduce_backward", 4, 128): Tile(32, 32, 32, warps=8, stages=1),
    ("readout_forward", 2, 32): Tile(64, 32, 32, steps=4),
    ("readout_forward", 2, 64): Tile(64, 64, 64, steps=4),
    ("readout_forward", 2, 128): Tile(64, 64, 64, warps=8, stages=1, steps=4),
    ("readout_forward", 4, 32): Tile(32, 32, 32, steps=4),
    ("readout_forward", 4, 64): Tile(32, 64, 32, steps=4),
    ("readout_forward", 4, 128): Tile(32, 64, 32, warps=8, stages=1, steps=4),
    ("readout_backward", 2, 32): Tile(64, 32, 32),
    ("readout_backward", 2, 64): Tile(64, 64, 64),
    ("readout_backward", 2, 128): Tile(64, 64, 64, warps=8, stages=1),
    ("readout_backward", 4, 32): Tile(32, 32, 32),
    ("readout_backward", 4, 64): Tile(32, 32, 32, warps=8, stages=1),
    ("readout_backward", 4, 128): Tile(32, 32, 32, warps=8, stages=1),
}

# The same, for one architecture where the row above leaves a few bytes of stack there.
ARCH_TILES: dict[tuple[str, int, int, str], Tile] = {
    ("accumulate", 2, 64, "sm_80"): Tile(32, 64, 64),
    ("accumulate", 2, 128, "sm_80"): Tile(32, 64, 64, warps=8),
    ("reduce_backward", 2, 128, "sm_80"): Tile(32, 64, 64, warps=8),
    ("readout_forward", 2, 128, "sm_80"): Tile(64, 64, 64, warps=8, steps=4),
    ("readout_backward", 2, 128, "sm_80"): Tile(64, 64, 64, warps=8),
    ("readout_backward", 4, 64, "sm_90"): Tile(32, 32, 32, stages=1),
    ("accumulate", 2, 32, "sm_100"): Tile(32, 32, 32),
    ("accumulate", 2, 128, "sm_100"): Tile(32, 64, 64, warps=8),
    ("accumulate", 4, 32, "sm_100"): Tile(32, 32, 32, stages=3),
    ("accumulate", 4, 64, "sm_100"): Tile(32, 64, 32, warps=8),
    ("reduce_backward", 4, 64, "sm_100"): Tile(16, 32, 32, stages=1),
}

# The same for float16 inputs, which otherwise have the rows of 4 bytes: their operands are float32.
FLOAT16_TILES: dict[tuple[str, int, str], Tile] = {
    ("reduce_backward", 64, "sm_80"): Tile(32, 32, 32, stages=1),
    ("readout_backward", 64, "sm_80"): Tile(32, 32, 32, stages=1),
    ("readout_backward", 128, "sm_80"): Tile(32, 32, 32, warps=8),
    ("readout_forward", 128, "sm_80"): Tile(32, 64, 32, warps=8, steps=4),
    ("reduce_backward", 128, "sm_90"): Tile(64, 32, 32, warps=8, stages=1),
    ("reduce_backward", 64, "sm_100"): Tile(32, 32, 32, stages=1),
    ("reduce_backward", 128, "sm_100"): Tile(32, 32, 32, stages=1),
}


def width_class(key_dim: int, value_dim: int) -> int:
    width = max(key_dim, value_dim)
    return 32 if width <= 32 else 64 if width <= 64 else 128


def _padded(width: int) -> int:
    """The power of two, 16 or more (a dot takes no less), that holds ``width``."""
    return max(16, 1 << (width - 1).bit_length())


def tile_for(kernel: str, key_dim: int, value_dim: int, dtype: torch.dtype, arch: str) -> Tile:
    """The shipped tile of a kernel; ``arch`` is "sm_80", "sm_90", "sm_100", "gfx942" or of their form."""
    width = width_class(key_dim, value_dim)
    row = (kernel, 2 if dtype == torch.bfloat16 else 4, width)
    tile = ARCH_TILES.get((*row, arch), TILES[row])
    if dtype == torch.float16:
        tile = FLOAT16_TILES.get((kernel, width, arch), tile)
    return replace(tile, keys=min(tile.keys, _padded(key_dim)), values=min(tile.values, _padded(value_dim)))


def dot_precision(x: torch.Tensor, arch: str) -> str:
    """How float32 operands are multiplied; "ieee", exact, is also what bfloat16 ones say.

    On NVIDIA float16 inputs take tf32, which has their digits, and float32 ones of more than 64 columns three
    tf32 products (exact ones spill there).
    """
    if not arch.startswith("sm_"):
        return "ieee"
    if x.dtype == torch.float16:
        return "tf32"
    return "tf32x3" if x.dtype == torch.float32 and x.shape[-1] > 64 else "ieee"


def split_count(programs: int, tokens: int, key_dim: int, itemsize: int, processors: int) -> int:
    """Parts of a row's tokens: fill the device twice, keep partial states under a tenth of the reads."""
    wanted = -(-2 * processors // max(programs, 1))
    return max(1, min(wanted, tokens * itemsize // (20 * key_dim)))
