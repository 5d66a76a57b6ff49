"""Boxes as the numbers that a CenterPoint head regresses at a cell, and back.

Code (K, 8 or 10): column and row offset from the cell's low corner (cells), z (metres), log dx, dy, dz,
cos yaw, sin yaw[, vx, vy].
"""

import torch
from torch import Tensor

from .cells import MapCells

CODE = {"center": 2, "center_z": 1, "dim": 3, "rot": 2}  # branches in the order of the code
VELOCITY = {"vel": 2}
LARGEST = 10.0  # of a log size: what an untrained head says is still a box


def cells_of(boxes: Tensor, cells: MapCells) -> tuple[Tensor, Tensor]:
    """Boxes (K, >= 2) -> where their centres are on the map (K, 2) as (column, row), and in which cell.

    Centres off the map are moved to its border: 0 below, half a cell before the end above.
    """
    height, width = cells.shape
    at = cells.to_cells(boxes[:, :2])
    at = torch.stack((at[:, 0].clamp(0, width - 0.5), at[:, 1].clamp(0, height - 0.5)), dim=1)
    return at, at.long()


def encode(boxes: Tensor, offset: Tensor) -> Tensor:
    """Boxes (K, 7 or 9) and their offset in the cell (K, 2) -> (K, 8 or 10)."""
    yaw = boxes[:, 6:7]
    parts = (offset, boxes[:, 2:3], boxes[:, 3:6].log(), yaw.cos(), yaw.sin(), boxes[:, 7:])
    return torch.cat(parts, dim=1)


def decode(code: Tensor, corner: Tensor, cells: MapCells) -> Tensor:
    """Codes (K, 8 or 10) at cells whose low corner is (column, row) (K, 2) -> boxes (K, 7 or 9)."""
    xy = cells.to_metres(corner + code[:, :2])
    sizes = code[:, 3:6].clamp(-LARGEST, LARGEST).exp()
    yaw = torch.atan2(code[:, 7:8], code[:, 6:7])
    return torch.cat((xy, code[:, 2:3], sizes, yaw, code[:, 8:]), dim=1)
