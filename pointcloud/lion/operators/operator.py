"""What every operator of LION is: a block that mixes the tokens of sequences, each on its own, in O(N)."""

import torch
from torch import Tensor, nn

from .drop_path import DropPath


class Operator(nn.Module):
    """A residual block over sequences of voxels; subclasses write ``mix``.

    channels: C of the tokens.  layer_id: this block's place among the ``n_layer`` blocks of the network, 0
    first.  drop_path: probability that a sequence leaves out a residual branch while training.
    Raises ValueError for sizes that are not those of a network.
    """

    def __init__(self, channels: int, *, layer_id: int = 0, n_layer: int = 1, drop_path: float = 0.0) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be >= 1, got {channels}")
        if not 0 <= layer_id < n_layer:
            raise ValueError(f"layer_id must be in 0 .. n_layer - 1 = {n_layer - 1}, got {layer_id}")
        self.channels, self.layer_id, self.n_layer = channels, layer_id, n_layer
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        """(G, T, C), G sequences -> the same shape.

        With ``cu_seqlens`` (S + 1,) int32, first 0, last N, x is (1, N, C) and its segments are the
        sequences. Raises ValueError where x or cu_seqlens have another shape or dtype.
        """
        if x.dim() != 3 or x.shape[2] != self.channels:
            raise ValueError(f"x must be (G, T, C) with C = {self.channels}, got {tuple(x.shape)}")
        if cu_seqlens is not None:
            if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2 or cu_seqlens.dtype != torch.int32:
                got = f"{tuple(cu_seqlens.shape)} {cu_seqlens.dtype}"
                raise ValueError(f"cu_seqlens must be int32 offsets (S + 1,), S >= 1, got {got}")
            if x.shape[0] != 1:
                raise ValueError(f"x must be (1, N, C) with cu_seqlens, got {tuple(x.shape)}")
        return x if x.shape[0] * x.shape[1] == 0 else self.mix(x, cu_seqlens)

    def mix(self, x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        """The block itself, on tokens that were checked."""
        raise NotImplementedError(f"{type(self).__name__} must define mix(x, cu_seqlens)")


def heads_for(channels: int, heads: int | None) -> int:
    """``heads``, or for None as many as have 32 channels each; raises ValueError unless they divide C."""
    heads = max(channels // 32, 1) if heads is None else heads
    if heads < 1 or channels % heads:
        raise ValueError(f"heads must be >= 1 and divide channels = {channels}, got {heads}")
    return heads
