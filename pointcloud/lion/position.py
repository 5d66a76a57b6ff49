"""Where a voxel lies in its grid, as features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layers import BatchNorm
from ..voxels import Voxels

HALF_TURN = 3.1415  # what the published weights were trained with


class PositionEmbedding(nn.Module):
    """Linear, batch norm, ReLU, Linear over the cell's (x, y, z), each scaled to -3.1415 .. 3.1415."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.position_embedding_head = nn.Sequential(
            nn.Linear(3, channels),
            BatchNorm(channels, eps=1e-5, momentum=0.1),
            nn.ReLU(),
            nn.Linear(channels, channels),
        )

    def forward(self, voxels: Voxels) -> Tensor:
        """-> (M, C)."""
        return self.position_embedding_head(scaled_cells(voxels, voxels.features.dtype))


def scaled_cells(voxels: Voxels, dtype: torch.dtype) -> Tensor:
    """(M, 3): (c - size / 2) / size * 2 * 3.1415 along x, y, z; at least float32 until it is done."""
    cells = voxels.coords[:, (3, 2, 1)].to(torch.promote_types(dtype, torch.float32))
    size = torch.tensor(voxels.shape[::-1], dtype=cells.dtype, device=cells.device)
    return ((cells - size / 2) / size * (2 * HALF_TURN)).to(dtype)
