"""Tile sizes by kernel, width, dtype and architecture: a table, not autotuning. Imports no triton.

The rows are what compiles for sm_80, sm_90, sm_100 and gfx942 with no stack and no spills (`linzoo
kernel-report`). None has been timed.
"""

from dataclasses import dataclass, replace

import torch

from ..linear_attn.triton_tiles import dot_precision, width_class

__all__ = ["Tile", "chunk_length", "dot_precision", "padded", "tile_for"]


@dataclass(frozen=True, slots=True)
class Tile:
    """Key and value columns of one step; warps; pipeline stages."""

    keys: int
    values: int
    warps: int = 4
    stages: int = 1

    @property
    def name(self) -> str:
        return f"{self.keys}x{self.values} w{self.warps} s{self.stages}"


# (kernel, bytes of a dot operand, width class): the larger of D and E, rounded up to 32, 64 or 128.
# Kernels named channel_ are those of decays per channel.
TILES: dict[tuple[str, int, int], Tile] = {
    ("states", 2, 32): Tile(32, 32),
    ("states", 2, 64): Tile(64, 64),
    ("states", 2, 128): Tile(64, 64),
    ("states", 4, 32): Tile(32, 32),
    ("states", 4, 64): Tile(32, 32),
    ("states", 4, 128): Tile(32, 32),
    ("outputs", 2, 32): Tile(32, 32),
    ("outputs", 2, 64): Tile(64, 64, warps=8),
    ("outputs", 2, 128): Tile(64, 64, warps=8),
    ("outputs", 4, 32): Tile(32, 32, warps=8),
    ("outputs", 4, 64): Tile(32, 32, warps=8),
    ("outputs", 4, 128): Tile(32, 32, warps=8),
    ("gradients", 2, 32): Tile(32, 32, warps=8),
    ("gradients", 2, 64): Tile(32, 32, warps=8),
    ("gradients", 2, 128): Tile(32, 32, warps=8),
    ("gradients", 4, 32): Tile(16, 32, warps=8),
    ("gradients", 4, 64): Tile(16, 32, warps=8),
    ("gradients", 4, 128): Tile(16, 32, warps=8),
    ("channel_states", 2, 32): Tile(32, 32),
    ("channel_states", 2, 64): Tile(64, 64),
    ("channel_states", 2, 128): Tile(64, 64),
    ("channel_states", 4, 32): Tile(32, 32),
    ("channel_states", 4, 64): Tile(32, 32),
    ("channel_states", 4, 128): Tile(32, 32),
    ("channel_outputs", 2, 32): Tile(32, 32),
    ("channel_outputs", 2, 64): Tile(64, 64, warps=8),
    ("channel_outputs", 2, 128): Tile(32, 64, warps=8),
    ("channel_outputs", 4, 32): Tile(32, 32, warps=8),
    ("channel_outputs", 4, 64): Tile(64, 64, warps=8),
    ("channel_outputs", 4, 128): Tile(16, 32),
    ("channel_gradients", 2, 32): Tile(16, 32),
    ("channel_gradients", 2, 64): Tile(64, 64, warps=8),
    ("channel_gradients", 2, 128): Tile(64, 64, warps=8),
    ("channel_gradients", 4, 32): Tile(16, 16),
    ("channel_gradients", 4, 64): Tile(16, 16),
    ("channel_gradients", 4, 128): Tile(16, 16),
}

# The same, for one architecture where the row above leaves stack.
ARCH_TILES: dict[tuple[str, int, int, str], Tile] = {
    ("states", 2, 128, "sm_80"): Tile(32, 64),
    ("gradients", 2, 32, "sm_80"): Tile(16, 32, warps=8),
    ("gradients", 2, 64, "sm_80"): Tile(16, 32, warps=8),
    ("gradients", 2, 128, "sm_80"): Tile(16, 32, warps=8),
    ("gradients", 2, 32, "gfx942"): Tile(16, 32, warps=8),
    ("gradients", 2, 64, "gfx942"): Tile(16, 32, warps=8),
    ("gradients", 2, 128, "gfx942"): Tile(16, 32, warps=8),
    ("channel_outputs", 2, 64, "sm_100"): Tile(16, 64, warps=8),
    ("channel_outputs", 2, 128, "sm_100"): Tile(16, 64, warps=8),
    ("channel_gradients", 2, 64, "gfx942"): Tile(32, 64),
    ("channel_gradients", 2, 128, "gfx942"): Tile(32, 64),
}

# Tokens of a chunk: with decays per channel its weights take log2 of them products.
TOKENS = {"constant": 64, "token": 64, "channel": 32}


def padded(width: int) -> int:
    """The power of two, 16 or more (a dot takes no less), that holds ``width``."""
    return max(16, 1 << (width - 1).bit_length())


def chunk_length(kind: str, tokens: int, symmetric_block: int) -> tuple[int, int]:
    """Tokens of a chunk of rows of ``tokens``, and the power of two that holds them."""
    span = symmetric_block or min(TOKENS[kind], padded(tokens))
    return span, padded(span)


def tile_for(kernel: str, key_dim: int, value_dim: int, dtype: torch.dtype, arch: str) -> Tile:
    """The shipped tile of a kernel; ``arch`` is "sm_80", "sm_90", "sm_100", "gfx942" or of their form."""
    row = (kernel, 2 if dtype == torch.bfloat16 else 4, width_class(key_dim, value_dim))
    tile = ARCH_TILES.get((*row, arch), TILES[row])
    return replace(tile, keys=min(tile.keys, padded(key_dim)), values=min(tile.values, padded(value_dim)))
