"""Features of voxels from the points in them: the dynamic voxel feature encoder of OpenPCDet's configs.

    r_p = [values of p, xyz_p - mean xyz of its voxel, xyz_p - centre of its voxel]   F + 6 values
    r_p = [relu(BN(W r_p)), max over its voxel of that]                               all layers but the last
    feature of a voxel = max over its points of relu(BN(W r_p))                       the last

Every point counts (no cap), so the result does not depend on the order of the points.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import segment_gather
from .layers import BatchNorm
from .segment_max import segment_max
from .voxelize import PointsInVoxels
from .voxels import VoxelGrid, Voxels


def voxel_centres(coords: Tensor, grid: VoxelGrid, like: Tensor) -> Tensor:
    """x, y, z in metres of the middle of each cell, (M, 4) rows (b, z, y, x) -> (M, 3)."""
    size, low = like.new_tensor(grid.voxel_size), like.new_tensor(grid.point_range[:3])
    return coords[:, [3, 2, 1]] * size + (size / 2 + low)


class PointLayer(nn.Module):
    """Linear, BN, ReLU on every point, and the largest over its voxel.

    last: give the voxels' maxima (M, units); otherwise points beside their voxel's, (P, 2 units).
    """

    def __init__(self, width: int, units: int, last: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(width, units, bias=False)
        self.norm = BatchNorm(units)
        self.last = last

    def forward(self, rows: Tensor, where: PointsInVoxels) -> Tensor:
        rows = F.relu(self.norm(self.linear(rows)))
        largest = segment_max(rows, where.lengths)
        return largest if self.last else torch.cat([rows, segment_gather(largest, where.voxel)], 1)


class DynamicVoxelFeatureEncoder(nn.Module):
    """Points in voxels -> Voxels with features of the last of ``widths``, in the grid's shape.

    Args:
        point_features: values of a point, x, y, z included.
        widths: outputs of the layers; all but the last must be even (half of one is the voxel's maximum).
        tanh: which of the values (from 3 on) pass through tanh first. Waymo's intensity and elongation, 3 and
            4, are unbounded as recorded; the readers of frames give them raw.
    """

    def __init__(
        self, point_features: int, widths: Sequence[int] = (64, 64), *, tanh: Sequence[int] = ()
    ) -> None:
        super().__init__()
        if point_features < 3:
            raise ValueError(f"point_features must be >= 3 (x, y, z first), got {point_features}")
        if not widths or any(w < 1 for w in widths) or any(w % 2 for w in widths[:-1]):
            raise ValueError(f"widths must be sizes >= 1, even ones but for the last, got {tuple(widths)}")
        if any(i not in range(3, point_features) for i in tanh):
            raise ValueError(f"tanh must be indices in 3 .. {point_features - 1}, got {tuple(tanh)}")
        self.point_features, self.tanh, self.width = point_features, tuple(tanh), widths[-1]
        inputs, last = [point_features + 6, *widths[:-1]], len(widths) - 1
        self.pfn_layers = nn.ModuleList(
            PointLayer(width, units if i == last else units // 2, i == last)
            for i, (width, units) in enumerate(zip(inputs, widths, strict=True))
        )

    def forward(self, points: PointsInVoxels) -> Voxels:
        """Raises: ValueError for points with another number of values."""
        got = points.points.shape[1]
        if got != self.point_features:
            raise ValueError(f"points must have {self.point_features} values each, got {got}")
        rows = self.described(points).to(self.pfn_layers[0].linear.weight.dtype)
        for layer in self.pfn_layers:
            rows = layer(rows, points)
        return Voxels(
            features=rows, coords=points.coords, shape=points.grid.shape, batch_size=points.batch_size
        )

    def described(self, points: PointsInVoxels) -> Tensor:
        """The F + 6 values of every point, in the points' precision."""
        values = points.points
        centre = voxel_centres(points.coords, points.grid, values)
        off_centre = values[:, :3] - centre[points.voxel]
        # the mean of small offsets, not of coordinates: large ones cost digits
        mean = torch.segment_reduce(off_centre, "mean", lengths=points.lengths, axis=0, unsafe=True)
        off_mean = off_centre - segment_gather(mean, points.voxel)
        columns = [v.tanh() if i in self.tanh else v for i, v in enumerate(values.unbind(1))]
        return torch.cat([torch.stack(columns, 1), off_mean, off_centre], 1)
