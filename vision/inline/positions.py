"""Learned position tables (1, P + h * w, C) at another grid than the one they were learned on."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..sizes import check_count
from .symbols import sizes_are_symbols

Grid = tuple[int, int]


def resize_table(table: Tensor, old: Grid, new: Grid, mode: str, prefix: int = 0) -> Tensor:
    """A position table for the grid ``new``; the table itself where the grids are equal.

    Args:
        table: (1, prefix + old[0] * old[1], C), row-major.
        old, new: tokens (down, across).
        mode: "bilinear" (corners not aligned, no antialiasing: InLine-PVT's own rule), or "bicubic" with
            antialiasing (what timm does with vision transformers).
        prefix: entries in front that belong to no place; they stay.
    Returns: (1, prefix + new[0] * new[1], C), in the table's dtype; interpolated in float32 (float64).
    """
    if not sizes_are_symbols() and tuple(old) == tuple(new):
        return table
    image = table[:, prefix:].unflatten(1, old).permute(0, 3, 1, 2)
    wide = image if image.dtype == torch.float64 else image.float()
    wide = F.interpolate(wide, size=new, mode=mode, align_corners=False, antialias=mode == "bicubic")
    resized = wide.to(table.dtype).flatten(2).transpose(1, 2)
    return torch.cat((table[:, :prefix], resized), 1) if prefix else resized


def grid_of_table(owner: str, tokens: int, like: Grid) -> Grid:
    """The grid that a table of ``tokens`` places in a file was learned on: ``like`` where it fits, a square.

    Raises: ValueError where it is neither.
    """
    if tokens == like[0] * like[1]:
        return like
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(
            f"{owner}: a position table must be of the model's grid {like} or of a square one, "
            f"got {tokens} places"
        )
    return side, side


def image_sides(owner: str, img_size: int | tuple[int, int]) -> Grid:
    """(height, width) in pixels of an ``img_size`` argument; ValueError for anything else."""
    sides = tuple(img_size) if isinstance(img_size, (tuple, list)) else (img_size, img_size)
    if len(sides) != 2:
        raise ValueError(f"{owner}: img_size must be an int or (height, width), got {img_size!r}")
    for side in sides:
        check_count(owner, "img_size", side)
    return sides
