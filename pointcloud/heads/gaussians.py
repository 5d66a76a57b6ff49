"""Objects on a heat map: a Gaussian about the cell of each, whose width follows the object's size."""

import torch
from torch import Tensor

OVERLAP = 0.1  # a box whose corners move by less than the radius keeps this overlap with itself
SMALLEST = 2  # cells
CHUNK = 1 << 20  # values drawn at a time


def gaussian_radius(width: Tensor, length: Tensor, overlap: float = OVERLAP) -> Tensor:
    """Box sizes in cells (K,), (K,) -> whole cells (K,), at least 2.

    The least of three roots (b + sqrt(b^2 - 4 a c)) / 2 as in CornerNet's code, which divides by 2 where the
    quadratic formula has 2 a: trained heads know these radii.
    """
    around, area = width + length, width * length
    quadratics = (
        (1.0, around, area * (1 - overlap) / (1 + overlap)),
        (4.0, 2 * around, area * (1 - overlap)),
        (4 * overlap, -2 * overlap * around, (overlap - 1) * area),
    )
    roots = [(b + (b * b - 4 * a * c).sqrt()) / 2 for a, b, c in quadratics]
    return torch.stack(roots).amin(dim=0).long().clamp(min=SMALLEST)


def draw_gaussians(plane: Tensor, column: Tensor, row: Tensor, radius: Tensor, like: Tensor) -> Tensor:
    """Zeros shaped like ``like`` (P, Y, X), and K Gaussians, each on its plane; the larger value stays.

    plane, column, row, radius: (K,) int64. A Gaussian of radius r fills the 2 r + 1 cells an axis about its
    cell, as far as they are on the map, with sigma = (2 r + 1) / 6; its middle is exactly 1.
    """
    height, width = like.shape[1:]
    heat = torch.zeros_like(like).flatten()
    if len(plane) == 0:
        return heat.view_as(like)
    reach = min(int(radius.max()), max(height, width))
    away = torch.arange(-reach, reach + 1, device=like.device)
    down, along = (g.flatten() for g in torch.meshgrid(away, away, indexing="ij"))
    for part in torch.arange(len(plane), device=like.device).split(max(1, CHUNK // len(down))):
        r = radius[part, None]
        x, y = column[part, None] + along, row[part, None] + down  # (k, cells)
        sigma = (2 * r + 1).double() / 6
        value = torch.exp(-(along**2 + down**2) / (2 * sigma**2)).to(heat)
        drawn = (down.abs() <= r) & (along.abs() <= r) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        cell = (plane[part, None] * height + y) * width + x
        heat.scatter_reduce_(0, cell[drawn], value[drawn], "amax")
    return heat.view_as(like)
