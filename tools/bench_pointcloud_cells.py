"""Voxel sets like those of LiDAR frames: rough ground with boxes on it, the cells nearest to the middle."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..pointcloud.windows import Cells

HILL = 12  # cells from one hill to the next
SPACING = 16  # cells between boxes


def street_cells(voxels: int, shape: Cells) -> Tensor:
    """(voxels, 4) int64 rows (b = 0, z, y, x), sorted; each has about 7 occupied neighbours of 26.

    shape: cells along (z, y, x).
    Raises: ValueError where the grid has fewer columns than voxels, or is lower than 8 cells.
    """
    import torch

    depth, rows, columns = shape
    if depth < 8 or rows * columns < voxels:
        raise ValueError(f"{voxels} voxels need a grid 8 cells high with as many columns, got {shape}")
    height = ground(depth, rows, columns)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    cells = torch.cat([torch.stack([height, y, x], -1).flatten(0, 1), walls(height)])
    away = (cells[:, 1] - rows // 2) ** 2 + (cells[:, 2] - columns // 2) ** 2
    nearest = cells[away.argsort(stable=True)[:voxels]]
    order = ((nearest[:, 0] * rows + nearest[:, 1]) * columns + nearest[:, 2]).argsort()
    return torch.nn.functional.pad(nearest[order], (1, 0))


def ground(depth: int, rows: int, columns: int) -> Tensor:
    """(rows, columns) int64 heights of hills that are steep enough to break in places."""
    import torch
    from torch.nn.functional import interpolate

    generator = torch.Generator().manual_seed(0)
    hills = torch.rand(1, 1, rows // HILL + 2, columns // HILL + 2, generator=generator)
    smooth = interpolate(hills, size=(rows, columns), mode="bicubic")[0, 0]
    return (smooth * (depth - 6)).long().clamp(0, depth - 6)


def walls(height: Tensor) -> Tensor:
    """(K, 3) cells (z, y, x): the two sides of a box that a sensor sees, 4 cells high, once in a while."""
    import torch

    rows, columns = height.shape
    spots = torch.cartesian_prod(torch.arange(2, rows - 8, SPACING), torch.arange(2, columns - 12, SPACING))
    found = []
    for y, x in spots.tolist():
        side = torch.cartesian_prod(torch.arange(1, 5), torch.tensor([y]), torch.arange(x, x + 10))
        front = torch.cartesian_prod(torch.arange(1, 5), torch.arange(y + 1, y + 5), torch.tensor([x]))
        found.append(torch.cat([side, front]))
    cells = torch.cat(found) if found else height.new_zeros(0, 3)
    return torch.stack([cells[:, 0] + height[cells[:, 1], cells[:, 2]], cells[:, 1], cells[:, 2]], 1)
