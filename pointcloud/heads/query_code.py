"""Boxes as the numbers that a TransFusion head regresses for a query, and back.

Code (K, 8 or 10): x and y on the map (cells), z (metres), log dx, dy, dz, sin yaw, cos yaw[, vx, vy].
z is the centre's (ScatterFormer) or the top's, z + dz / 2 (LION).
"""

import torch
from torch import Tensor

from .cells import MapCells
from .center_code import LARGEST

CODE = {"center": 2, "height": 1, "dim": 3, "rot": 2}  # branches in the order of the code
VELOCITY = {"vel": 2}
HEIGHTS = ("centre", "top")


def encode(boxes: Tensor, cells: MapCells, height: str) -> Tensor:
    """Boxes (K, 7 or 9) -> (K, 8 or 10)."""
    z, dz, yaw = boxes[:, 2:3], boxes[:, 5:6], boxes[:, 6:7]
    z = z + dz / 2 if height == "top" else z
    parts = (cells.to_cells(boxes[:, :2]), z, boxes[:, 3:6].log(), yaw.sin(), yaw.cos(), boxes[:, 7:])
    return torch.cat(parts, dim=1)


def decode(code: Tensor, cells: MapCells, height: str) -> Tensor:
    """Codes (K, 8 or 10) -> boxes (K, 7 or 9)."""
    sizes = code[:, 3:6].clamp(-LARGEST, LARGEST).exp()
    z = code[:, 2:3] - sizes[:, 2:3] / 2 if height == "top" else code[:, 2:3]
    yaw = torch.atan2(code[:, 6:7], code[:, 7:8])
    return torch.cat((cells.to_metres(code[:, :2]), z, sizes, yaw, code[:, 8:]), dim=1)
