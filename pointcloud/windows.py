"""Windows of a voxel grid: which one a voxel lies in, where inside it, and orders that go window by window.

Windows and shapes are cells along (z, y, x). A shifted window grid starts half a window (rounded down) before
the first cell, so that its windows straddle the borders of the plain one.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .voxels import Voxels

Axis = Literal["x", "y"]
Cells = tuple[int, int, int]

ORDERED_AXES = {"x": (2, 1, 0), "y": (1, 2, 0)}  # columns of (z, y, x), the slowest first


class WindowCoords(NamedTuple):
    """Of each voxel, cells along (z, y, x), int64: its window (M, 3), and its place inside that (M, 3)."""

    window: Tensor
    inside: Tensor


def window_coords(coords: Tensor, window: Cells, *, shifted: bool = False) -> WindowCoords:
    """(c + s) // window and (c + s) mod window, s = window // 2 where shifted and 0 where not.

    coords: (M, 4) int64 rows (b, z, y, x).
    """
    check_window(window)
    size = torch.tensor(window, device=coords.device)
    moved = coords[:, 1:] + (size // 2 if shifted else 0)
    return WindowCoords(moved // size, moved % size)


def windows_along(shape: Cells, window: Cells, *, shifted: bool = False) -> Cells:
    """How many windows cover ``shape`` along (z, y, x)."""
    check_window(window)
    z, y, x = (-(-(n + (w // 2 if shifted else 0)) // w) for n, w in zip(shape, window, strict=True))
    return z, y, x


def window_ids(coords: Tensor, shape: Cells, window: Cells, *, shifted: bool = False) -> Tensor:
    """The window of each voxel, (M,) int64, counted in the order (b, z, y, x) of windows.

    A window as high as the grid gives ScatterFormer's (b, y // w, x // w).
    """
    _, rows, columns = along = windows_along(shape, window, shifted=shifted)
    z, y, x = window_coords(coords, window, shifted=shifted).window.unbind(1)
    return ((coords[:, 0] * along[0] + z) * rows + y) * columns + x


def window_keys(coords: Tensor, shape: Cells, window: Cells, *, axis: Axis, shifted: bool = False) -> Tensor:
    """One int64 a voxel that sorts by sample, then window, then place inside; no two voxels share one.

    axis "x" compares x first, then y, then z, of windows and of places; "y" compares y, x, z.
    """
    if axis not in ORDERED_AXES:
        raise ValueError(f"axis must be one of {tuple(ORDERED_AXES)}, got {axis!r}")
    along = windows_along(shape, window, shifted=shifted)
    at, inside = window_coords(coords, window, shifted=shifted)
    key = coords[:, 0]
    for column in ORDERED_AXES[axis]:
        key = key * along[column] + at[:, column]
    for column in ORDERED_AXES[axis]:
        key = key * window[column] + inside[:, column]
    return key


def window_order(voxels: Voxels, window: Cells, *, axis: Axis, shifted: bool = False) -> Tensor:
    """(M,) int64: the voxel at each place of the order that ``window_keys`` sorts by, kept in the cache."""

    def sort() -> Tensor:
        return window_keys(voxels.coords, voxels.shape, window, axis=axis, shifted=shifted).argsort()

    return voxels.cached(("window order", window, axis, shifted), sort)


def check_window(window: Cells) -> None:
    if len(window) != 3 or not all(isinstance(w, int) and w > 0 for w in window):
        raise ValueError(f"window must be three whole numbers of cells (z, y, x) > 0, got {window}")
