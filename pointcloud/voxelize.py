"""Points of a batch of frames to the occupied cells of a grid: no cap on points a cell, nor on cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.errors import ShapeError
from .voxels import VoxelGrid


@dataclass(frozen=True, kw_only=True)
class PointsInVoxels:
    """The points of a batch that lie in the grid, put beside the others of their cell.

    points: (P, 3 + extras): x, y, z in metres, then the extras; sorted by voxel, within one in the
        frame's own order.
    voxel: (P,) int64, the row of ``coords`` that a point lies in, rising.
    lengths: (M,) int64, points of each voxel, at least 1.
    coords: (M, 4) int64 rows (b, z, y, x), sorted by b, then x, then y, then z.
    batch_size: frames, some of which may be empty.
    """

    points: Tensor
    voxel: Tensor
    lengths: Tensor
    coords: Tensor
    grid: VoxelGrid
    batch_size: int


def voxelize(points: Sequence[Tensor], grid: VoxelGrid) -> PointsInVoxels:
    """The cell of every point: floor((p - low) / voxel_size) along each axis, in the points' own precision.

    Args:
        points: one tensor (N_i, 3 + extras) a frame, float32 or float64; x, y, z first, in metres. A
            frame may have no points. Points outside the grid's range are dropped.
    Raises: ValueError, TypeError or ShapeError that names the frame; a value that is not finite is refused.
    """
    _check(points)
    rows = torch.cat(list(points))
    frame = torch.repeat_interleave(
        torch.arange(len(points), device=rows.device),
        torch.tensor([len(p) for p in points], device=rows.device),
    )
    depth, height, width = grid.shape
    cell = ((rows[:, :3] - rows.new_tensor(grid.point_range[:3])) / rows.new_tensor(grid.voxel_size)).floor()
    # compared before they become integers: a far point's cell may not fit in one
    inside = ((cell >= 0) & (cell < rows.new_tensor([width, height, depth]))).all(1)
    x, y, z = cell[inside].long().unbind(1)
    key, order = torch.sort(((frame[inside] * width + x) * height + y) * depth + z, stable=True)
    key, voxel, lengths = torch.unique_consecutive(key, return_inverse=True, return_counts=True)
    return PointsInVoxels(
        points=rows[inside][order],
        voxel=voxel,
        lengths=lengths,
        coords=_cells_of(key, grid.shape),
        grid=grid,
        batch_size=len(points),
    )


def _cells_of(key: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Numbers ((b X + x) Y + y) Z + z, (M,) -> rows (b, z, y, x)."""
    depth, height, width = shape
    column, row = key // depth, key // (depth * height)
    return torch.stack([row // width, key % depth, column % height, row % width], 1)


def _check(points: Sequence[Tensor]) -> None:
    if isinstance(points, Tensor) or not isinstance(points, Sequence):
        raise TypeError(
            f"voxelize: points must be a list of tensors, one a frame, got {type(points).__name__}"
        )
    if not points:
        raise ValueError("voxelize: points must have at least one frame, got none")
    for i, frame in enumerate(points):
        name = f"voxelize: points[{i}] (frame {i} of {len(points)})"
        if not isinstance(frame, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(frame).__name__}")
        if frame.ndim != 2 or frame.shape[1] < 3:
            raise ShapeError(f"{name} must be (N, 3 + extras), got {tuple(frame.shape)}")
        if frame.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} must be float32 or float64, got {frame.dtype}")
        first = points[0]
        like = (first.shape[1], first.dtype, first.device)
        got = (frame.shape[1], frame.dtype, frame.device)
        if got != like:
            words = "{} values a point, {}, on {}"
            raise ShapeError(f"{name} must be as points[0], {words.format(*like)}, got {words.format(*got)}")
        finite = frame.isfinite().all(1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            values = ", ".join(f"{v:.6g}" for v in frame[row].tolist())
            raise ValueError(f"{name} must be finite, row {row} is ({values})")
