"""Labels, grids and maps that tests of several heads use."""

import math

import torch

from linzoo.pointcloud.records import Labels
from linzoo.pointcloud.voxels import VoxelGrid

GRID = VoxelGrid(point_range=(-8.0, -4.0, -2.0, 8.0, 4.0, 4.0), voxel_size=(0.25, 0.25, 0.5))
STRIDE = 2  # a map of 16 rows (y) and 32 columns (x), half a metre a cell


def some_boxes(count: int, seed: int, columns: int = 7) -> torch.Tensor:
    """Boxes inside GRID, no two centres in cells next to each other, yaw over more than a circle."""
    draw = torch.Generator().manual_seed(seed)
    places = torch.randperm(7 * 15, generator=draw)[:count]
    boxes = torch.rand(count, columns, generator=draw)
    boxes[:, 0] = -7.5 + places % 15 + 0.4 * boxes[:, 0]
    boxes[:, 1] = -3.5 + places // 15 + 0.4 * boxes[:, 1]
    boxes[:, 2] = boxes[:, 2] * 2 - 1
    boxes[:, 3:6] = 0.5 + 3 * boxes[:, 3:6]
    boxes[:, 6] = (boxes[:, 6] - 0.5) * 2.5 * math.pi
    boxes[:, 7:] = (boxes[:, 7:] - 0.5) * 10
    return boxes


def some_labels(count: int, seed: int, columns: int = 7, classes: int = 3) -> Labels:
    kinds = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed + 1))
    return Labels(some_boxes(count, seed, columns), kinds)


def no_labels(columns: int = 7) -> Labels:
    return Labels(torch.zeros(0, columns), torch.zeros(0, dtype=torch.int64))


def angle_between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Of two yaws modulo a full turn, 0..pi."""
    return (torch.remainder(a - b + math.pi, 2 * math.pi) - math.pi).abs()


def assert_same_boxes(found: torch.Tensor, boxes: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Row by row, yaw as an angle."""
    assert found.shape == boxes.shape
    others = [i for i in range(boxes.shape[1]) if i != 6]
    torch.testing.assert_close(found[:, others], boxes[:, others], atol=tolerance, rtol=tolerance)
    assert angle_between(found[:, 6], boxes[:, 6]).max() < tolerance
