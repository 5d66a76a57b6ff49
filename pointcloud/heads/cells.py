"""Where the cells of a bird's-eye map lie in space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels import ShapeError
from ..voxels import VoxelGrid


@dataclass(frozen=True, kw_only=True)
class MapCells:
    """A bird's-eye map over a grid: row = y, column = x, each cell ``stride`` voxels an axis.

    Positions on the map are columns and rows counted from its low corner, so cell 3 spans 3.0 to 4.0.
    """

    grid: VoxelGrid
    stride: int

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"stride must be voxels a map cell >= 1, got {self.stride}")

    @property
    def shape(self) -> tuple[int, int]:
        """Cells along (y, x); a last cell may stick out of the grid."""
        _, height, width = self.grid.shape
        return -(-height // self.stride), -(-width // self.stride)

    @property
    def size(self) -> tuple[float, float]:
        """Edge lengths of a cell along (x, y), metres."""
        return self.grid.voxel_size[0] * self.stride, self.grid.voxel_size[1] * self.stride

    def to_cells(self, xy: Tensor) -> Tensor:
        """Metres (..., 2) -> (column, row) (..., 2), fractional."""
        (x0, y0), (x_size, y_size) = self.grid.point_range[:2], self.size
        return torch.stack(((xy[..., 0] - x0) / x_size, (xy[..., 1] - y0) / y_size), dim=-1)

    def to_metres(self, cells: Tensor) -> Tensor:
        """(column, row) (..., 2) -> metres (..., 2)."""
        (x0, y0), (x_size, y_size) = self.grid.point_range[:2], self.size
        return torch.stack((cells[..., 0] * x_size + x0, cells[..., 1] * y_size + y0), dim=-1)

    def check(self, head: str, bev: Tensor, channels: int) -> None:
        """Raises: ShapeError unless bev is (B, channels, *self.shape)."""
        want = (channels, *self.shape)
        if bev.ndim != 4 or tuple(bev.shape[1:]) != want:
            why = f"the grid {self.grid.shape} (z, y, x) at stride {self.stride}"
            raise ShapeError(
                f"{head}: the map must be (B, C, Y, X) = (B, {want[0]}, {want[1]}, {want[2]}) for {why}, "
                f"got {tuple(bev.shape)}"
            )
