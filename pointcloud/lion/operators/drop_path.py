"""Stochastic depth per sequence: a residual branch is left out for some sequences of a batch."""

import torch
from torch import Tensor, nn

from ....kernels.segments import cu_seqlens_to_lengths


class DropPath(nn.Module):
    """In training multiplies each sequence by 0 with probability ``rate``, else by 1 / (1 - rate)."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path must be a probability in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        """x (B, N, C); with cu_seqlens (G + 1,) int32 (B = 1) its segments are drawn, else its rows."""
        if self.rate == 0 or not self.training:
            return x
        sequences = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
        keep = (torch.rand(sequences, device=x.device) >= self.rate).to(x.dtype) / (1 - self.rate)
        if cu_seqlens is None:
            return x * keep.view(-1, 1, 1)
        per_token = torch.repeat_interleave(keep, cu_seqlens_to_lengths(cu_seqlens), output_size=x.shape[1])
        return x * per_token.view(1, -1, 1)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
