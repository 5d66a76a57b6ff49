"""Scattered linear attention (ScatterFormer, arXiv 2401.00912, ECCV 2024): windows of any number of voxels.

    S_w = sum_j k_j v_j^T    z_w = sum_j k_j            over the voxels j of window w, per head
    o_i = (q_i^T S_w) / (q_i . z_w + eps)               for i in w

q = relu(W_q x), k = relu(W_k x), v = W_v x; no scale, no positions, no padding: windows lie one after the
other in a row of voxels, and ``linear_attn`` cuts long ones into tiles whose states add.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ...kernels import linear_attn
from ...kernels.segments import lengths_to_cu_seqlens
from ..voxels import Voxels
from ..windows import window_ids

EPS = 1e-6


def by_window(voxels: Voxels, window: int) -> tuple[Voxels, Tensor]:
    """The voxels sorted by (b, y // window, x // window), and the offsets (G + 1,) int32 of occupied windows.

    Within a window their order stays. A window is as high as the grid.
    """

    def sort() -> tuple[Tensor, Tensor, Voxels]:
        ids = window_ids(voxels.coords, voxels.shape, (voxels.shape[0], window, window))
        ids, order = torch.sort(ids, stable=True)
        lengths = torch.unique_consecutive(ids, return_counts=True)[1]
        no_features = voxels.features.new_empty(len(order), 0)
        cells = replace(voxels, features=no_features, coords=voxels.coords[order], cache={})
        return order, lengths_to_cu_seqlens(lengths), cells

    order, cu_seqlens, cells = voxels.cached(("window", window), sort)
    return cells.with_features(voxels.features[order]), cu_seqlens


class ScatteredLinearAttention(nn.Module):
    """(M, C) rows sorted by window, offsets of the windows (G + 1,) int32 -> (M, C)."""

    def __init__(self, channels: int, heads: int, *, qkv_bias: bool = False, backend: str = "auto") -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"heads must divide channels = {channels}, got {heads}")
        self.heads, self.backend = heads, backend
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)

    def forward(self, rows: Tensor, cu_seqlens: Tensor) -> Tensor:
        qkv = self.qkv(rows).unflatten(1, (3, self.heads, -1))
        if len(rows) == 0:  # nothing attends; the parameters still belong to the result
            return self.proj(qkv.flatten(2).sum(1))
        q, k, v = qkv.unsqueeze(0).unbind(2)  # (1, M, H, C / H), views of the projection
        out = linear_attn(
            q,
            k,
            v,
            feature="relu",
            eps=EPS,
            eps_on="sum",
            cu_seqlens=cu_seqlens,
            backend=self.backend,
        )
        return self.proj(out.flatten(2)[0])
