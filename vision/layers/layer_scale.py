"""A learned factor per channel on a residual branch."""

import torch
from torch import Tensor, nn


class LayerScale(nn.Module):
    """x * gamma over the last axis; gamma (dim,) starts at ``init_value``."""

    def __init__(
        self,
        dim: int,
        init_value: float,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), float(init_value), device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma
