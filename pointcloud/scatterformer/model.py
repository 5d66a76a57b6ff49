"""ScatterFormer's 3D backbone: convolutions, two stages of window layers, and pillars pooled by attention."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import nn

from ..layers import BatchNorm, VoxelSequential
from ..sparse import SparseConv3d, SubmanifoldConv3d
from ..voxels import Voxels
from .pillar_pool import PillarPool
from .variants import ScatterFormerConfig
from .window_layer import WindowLayer


class ResidualBlock(nn.Module):
    """relu(f + BN(conv(relu(BN(conv(f)))))), submanifold convolutions of 3 x 3 x 3 with bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = SubmanifoldConv3d(channels, channels, bias=True)
        self.bn1 = BatchNorm(channels)
        self.conv2 = SubmanifoldConv3d(channels, channels, bias=True)
        self.bn2 = BatchNorm(channels)

    def forward(self, voxels: Voxels) -> Voxels:
        inner = self.conv1(voxels)
        inner = self.conv2(inner.with_features(F.relu(self.bn1(inner.features))))
        return voxels.with_features(F.relu(voxels.features + self.bn2(inner.features)))


class ScatterFormer(nn.Module):
    """Voxels (M, channels_in) on (Z, Y, X) -> (L, channels) on (1, ceil(Y / 2), ceil(X / 2)), by (b, y, x).

    backend: of the attention in windows, as ``linear_attn`` has it.
    Source: ScatterFormer, arXiv 2401.00912. Parameter names are those of the authors' files after
    ``backbone_3d.``.
    """

    def __init__(self, config: ScatterFormerConfig, *, backend: str = "auto") -> None:
        super().__init__()
        self.config = config
        c = config.channels
        embed = VoxelSequential(SubmanifoldConv3d(config.channels_in, c), BatchNorm(c), nn.ReLU())
        halve_z = VoxelSequential(SparseConv3d(c, c, (3, 1, 1), (2, 1, 1), 0), BatchNorm(c), nn.ReLU())
        self.cpe = VoxelSequential(embed, *(ResidualBlock(c) for _ in range(3)), halve_z)
        layer1, layer2 = (
            WindowLayer(c, config.heads, config.window, layers=config.layers, backend=backend)
            for _ in range(2)
        )
        self.stage1 = VoxelSequential(layer1, BatchNorm(c), SparseConv3d(c, c, 3, 2, 1))
        self.stage2 = VoxelSequential(layer2, BatchNorm(c))
        self.app = PillarPool(c, config.pillar_height, heads=config.pool_heads)

    def forward(self, voxels: Voxels) -> Voxels:
        """Raises: ValueError for features of another width and a grid higher than the config's."""
        width = self.config.channels_in
        if voxels.features.dim() != 2 or voxels.features.shape[1] != width:
            got = tuple(voxels.features.shape)
            raise ValueError(f"voxels must have features (M, {width}), the encoder's width, got {got}")
        depth, most = voxels.shape[0], self.config.grid.shape[0]
        if not 2 <= depth <= most:
            raise ValueError(f"voxels must lie on a grid of 2 .. {most} cells in z, got {voxels.shape}")
        cells = voxels.cached("one cell higher", lambda: one_cell_higher(voxels))
        return self.app(self.stage2(self.stage1(self.cpe(cells.with_features(voxels.features)))))


def one_cell_higher(voxels: Voxels) -> Voxels:
    """The cells on a grid with an empty layer on top, so that a stride of 2 covers an even height."""
    depth, height, width = voxels.shape
    no_features = voxels.features.new_empty(len(voxels), 0)
    return replace(voxels, features=no_features, shape=(depth + 1, height, width), cache={})
