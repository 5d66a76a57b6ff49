"""Attentive pillar pooling: the voxels of a column become one.

    query of a column = max over its voxels x_j        keys x_j + e(z_j)        values x_j
    y = LN(query + MultiheadAttention(query, keys, values))

Everything of a column is found by the sorted number of the column, never by the order in which another
operation happens to return columns: the authors' code adds rows of two such orders.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import segment_gather, segment_sum
from ..segment_max import segment_max
from ..voxels import Voxels


class ColumnAttention(nn.Module):
    """One query a column attends to the column's voxels; the parameters of ``nn.MultiheadAttention``.

    Only voxels that exist are projected: there is no padding to a height.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"heads must divide channels = {channels}, got {heads}")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, column: Tensor, lengths: Tensor) -> Tensor:
        """query (L, C); keys, values (M, C) sorted by column; column (M,), lengths (L,) -> (L, C)."""
        tensors, weights = (query, keys, values), self.in_proj_weight.chunk(3)
        biases = self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(1, (self.heads, -1))
            for x, w, b in zip(tensors, weights, biases, strict=True)
        )
        scores = (segment_gather(q, column) * k).sum(2) * q.shape[2] ** -0.5  # (M, H)
        # weights do not depend on what is subtracted, so no gradient goes through it
        highest = segment_max(scores.detach(), lengths)
        shares = (scores - highest[column]).exp()
        total = segment_sum(shares, column, len(lengths))
        read = segment_sum(shares.unsqueeze(2) * v, column, len(lengths)) / total.unsqueeze(2)
        return self.out_proj(read.flatten(1))


class PillarPool(nn.Module):
    """Voxels (M, C) on (Z, Y, X), Z <= height -> (L, C) on (1, Y, X), columns sorted by (b, y, x)."""

    def __init__(self, channels: int, height: int, *, heads: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.self_attn = ColumnAttention(channels, heads)
        self.pos_embedding = nn.Embedding(height, channels)
        nn.init.normal_(self.pos_embedding.weight, std=0.01)

    def forward(self, voxels: Voxels) -> Voxels:
        """Raises: ValueError for a grid that is higher than the table of heights."""
        height = self.pos_embedding.num_embeddings
        if voxels.shape[0] > height:
            raise ValueError(f"voxels must lie on a grid of at most {height} cells in z, got {voxels.shape}")
        order, column, lengths, coords = voxels.cached("columns", lambda: columns(voxels))
        rows = voxels.features[order]
        query = segment_max(rows, lengths)
        keys = rows + segment_gather(self.pos_embedding.weight, voxels.coords[order, 1])
        pooled = self.norm(query + self.self_attn(query, keys, rows, column, lengths))
        return Voxels(
            features=pooled, coords=coords, shape=(1, *voxels.shape[1:]), batch_size=voxels.batch_size
        )


def columns(voxels: Voxels) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Order of the voxels by (b, y, x, z); then the column of each, voxels of a column, columns' coords."""
    keys, height, width = voxels.coords, *voxels.shape[1:]
    b, z, y, x = keys.unbind(1)
    number = (b * height + y) * width + x
    order = torch.argsort(number * voxels.shape[0] + z)
    number, column, lengths = torch.unique_consecutive(number[order], return_inverse=True, return_counts=True)
    row = number // width
    coords = torch.stack([row // height, torch.zeros_like(row), row % height, number % width], 1)
    return order, column, lengths, coords
