"""Window layers: attention inside windows, then convolutions across their borders, on one sorted order."""

from __future__ import annotations

from torch import nn

from ..layers import BatchNorm
from ..voxels import Voxels
from .attention import ScatteredLinearAttention, by_window
from .feed_forward import CrossWindowFeedForward


class WindowLayer(nn.Module):
    """Voxels -> the same cells, sorted by window: ``layers`` times f += SLA(BN(f)), f = CWI_FFN(f).

    window: cells along y and x, even; the grid is cut from its low corner and windows are not shifted.
    backend: of the attention, as ``linear_attn`` has it.
    """

    def __init__(
        self, channels: int, heads: int, window: int, *, layers: int = 3, backend: str = "auto"
    ) -> None:
        super().__init__()
        if window < 2 or window % 2:
            raise ValueError(f"window must be an even number of cells >= 2, got {window}")
        self.window = window
        self.norm_layers = nn.ModuleList(BatchNorm(channels) for _ in range(layers))
        self.attn_layers = nn.ModuleList(
            ScatteredLinearAttention(channels, heads, backend=backend) for _ in range(layers)
        )
        self.cffn_layers = nn.ModuleList(CrossWindowFeedForward(channels, window + 1) for _ in range(layers))

    def forward(self, voxels: Voxels) -> Voxels:
        voxels, cu_seqlens = by_window(voxels, self.window)
        parts = zip(self.norm_layers, self.attn_layers, self.cffn_layers, strict=True)
        for norm, attend, feed_forward in parts:
            rows = voxels.features + attend(norm(voxels.features), cu_seqlens)
            voxels = feed_forward(voxels.with_features(rows))
        return voxels
