"""Tile sizes by kernel and state size: a table, not autotuning. Imports no triton.

The row of 16 states is what compiles for sm_80, sm_90, sm_100 and gfx942 with no stack and no spills
(`linzoo kernel-report`). None has been timed.
"""

from dataclasses import dataclass

from torch import Tensor

CHUNK = 32  # tokens of a program, between two states that are kept
WIDEST = 256  # states a channel


@dataclass(frozen=True, slots=True)
class Tile:
    """Channels of a program, padded states, tokens whose inputs are loaded together; warps; stages."""

    channels: int
    states: int
    tokens: int
    warps: int = 1
    stages: int = 1

    @property
    def name(self) -> str:
        return f"{self.channels}x{self.states} t{self.tokens} w{self.warps} s{self.stages}"


def tile_for(kernel: str, size: int) -> Tile:
    """The shipped tile of "sums", "between", "outputs" or "gradients" for ``size`` states a channel."""
    states = 1 << max(size - 1, 1).bit_length()
    channels = max(1, 512 // states)
    if kernel == "gradients":
        return Tile(channels, states, tokens=4, warps=2)
    return Tile(channels, states, tokens=1 if kernel == "between" else 8)


def kept_states(u: Tensor, cu_seqlens: Tensor | None) -> int:
    """One before each chunk; of segments, the most chunks that any lengths can need."""
    rows, tokens = u.shape[:2]
    return rows * (-(-tokens // CHUNK)) if cu_seqlens is None else tokens // CHUNK + len(cu_seqlens) - 1
