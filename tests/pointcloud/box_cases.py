"""Boxes to compare overlaps on, and areas of shared polygons in exact rational arithmetic."""

import itertools
import math
from fractions import Fraction

import torch

from linzoo.pointcloud.boxes import bev_corners


def box(x=0.0, y=0.0, z=0.0, dx=4.0, dy=2.0, dz=1.5, yaw=0.0) -> torch.Tensor:
    return torch.tensor([[x, y, z, dx, dy, dz, yaw]], dtype=torch.float64)


def random_boxes(n: int, seed: int, spread: float = 4.0, dtype=torch.float64) -> torch.Tensor:
    """Sizes .3 to 4.3 m, yaw over several turns, centres within ``spread`` metres."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.rand(n, 7, dtype=torch.float64, generator=draw)
    rows[:, :3] = (rows[:, :3] - 0.5) * spread
    rows[:, 3:6] = rows[:, 3:6] * 4 + 0.3
    rows[:, 6] = (rows[:, 6] - 0.5) * 20
    return rows.to(dtype)


def degenerate_pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Equal boxes, shared edges, touching corners and sides, quarter turns, and all of these nearly so."""
    nearly = (1e-15, 1e-14, 1e-13, 1e-12, 1e-9)
    yaws = (0.0, 0.3, math.pi / 4, 1.25, -math.pi / 2, 7.1)
    turns = (0.0, math.pi / 2, math.pi, -2 * math.pi, *nearly)
    along, across = (0.0, 1.0, 2.0, 4.0, 1e-13, 2 + 1e-14), (0.0, 1.0, 2.0, -1.0, 1e-14)
    sizes = ((4.0, 2.0), (2.0, 4.0), (2.0, 2.0), (1.0, 1.0))
    a, b = [], []
    for yaw, turn, u, v, size in itertools.product(yaws, turns, along, across, sizes):
        cos, sin = math.cos(yaw), math.sin(yaw)
        a.append(box(10.3, -4.2, yaw=yaw))
        b.append(box(10.3 + cos * u - sin * v, -4.2 + sin * u + cos * v, 0, *size, yaw=yaw + turn))
    return torch.cat(a), torch.cat(b)


def exact_areas(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Shared areas of boxes row by row, with no rounding after the corners (Sutherland-Hodgman clipping)."""
    polygons = zip(bev_corners(a).tolist(), bev_corners(b).tolist(), strict=True)
    return torch.tensor([exact_area(p, q) for p, q in polygons], dtype=torch.float64)


def exact_area(polygon: list, clip: list) -> float:
    polygon, clip = ([tuple(map(Fraction, corner)) for corner in p] for p in (polygon, clip))
    for start, end in zip(clip, clip[1:] + clip[:1], strict=True):
        polygon = left_of(polygon, start, end)
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return float(sum(p[0] * q[1] - q[0] * p[1] for p, q in pairs) / 2)


def left_of(polygon: list, start: tuple, end: tuple) -> list:
    """The part of a polygon to the left of a line."""

    def side(p):
        return (end[0] - start[0]) * (p[1] - start[1]) - (end[1] - start[1]) * (p[0] - start[0])

    out = []
    for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        before, after = side(p), side(q)
        if before >= 0:
            out.append(p)
        if before * after < 0:
            t = before / (before - after)
            out.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
    return out
