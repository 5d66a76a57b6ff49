"""The published forms of ScatterFormer as a table. Data only."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..voxels import VoxelGrid


@dataclass(frozen=True, kw_only=True, slots=True)
class ScatterFormerConfig:
    """Everything about a backbone but its weights.

    grid: the box of space and its cells; the backbone takes voxels of any grid that is no higher.
    window: cells along y and x of a window, even, the same at both stages.
    channels_in: width of the voxel features.  channels: width inside and of the output.
    heads: of the windows' attention.  pool_heads: of the pillars'.  layers: of each of the two stages.
    point_features: values of a point, x, y, z included.  tanh: which of them the voxel feature encoder passes
    through tanh.
    """

    grid: VoxelGrid
    window: int
    channels_in: int = 64
    channels: int = 128
    heads: int = 4
    pool_heads: int = 8
    layers: int = 3
    point_features: int = 5
    tanh: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        depth = self.grid.shape[0]
        if depth < 2:
            raise ValueError(f"ScatterFormerConfig: grid must be at least 2 cells high, got {depth}")
        if self.layers < 1:
            raise ValueError(f"ScatterFormerConfig: layers must be at least 1, got {self.layers}")

    def build(self) -> nn.Module:
        from .model import ScatterFormer  # which imports this file

        return ScatterFormer(self)

    @property
    def pillar_height(self) -> int:
        """Cells along z where pillars are pooled: z of the grid and one more, halved twice."""
        depth = self.grid.shape[0]
        after_cpe = (depth + 1 - 3) // 2 + 1
        return (after_cpe - 1) // 2 + 1


WAYMO = VoxelGrid(point_range=(-76.8, -76.8, -2.0, 76.8, 76.8, 4.0), voxel_size=(0.32, 0.32, 0.1875))
NUSCENES = VoxelGrid(point_range=(-54.0, -54.0, -5.0, 54.0, 54.0, 3.0), voxel_size=(0.3, 0.3, 0.2))

VARIANTS = {
    "scatterformer_waymo": ScatterFormerConfig(grid=WAYMO, window=12, tanh=(3, 4)),
    "scatterformer_nuscenes": ScatterFormerConfig(grid=NUSCENES, window=20),
}
