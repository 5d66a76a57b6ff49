"""Occupied cells of a regular grid in space, one row of features each: what sparse backbones pass on."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class VoxelGrid:
    """The box of space that is looked at, and how it is cut. Metres, in x, y, z order.

    point_range: x, y, z of the low corner, then of the high one.  voxel_size: edge lengths of a cell.
    """

    point_range: tuple[float, float, float, float, float, float]
    voxel_size: tuple[float, float, float]

    def __post_init__(self) -> None:
        for name in ("point_range", "voxel_size"):
            if not isinstance(getattr(self, name), tuple | list):
                raise TypeError(f"{name} must be a tuple of metres, got {getattr(self, name)!r}")
        low, high, size = self.point_range[:3], self.point_range[3:], self.voxel_size
        if len(self.point_range) != 6 or not all(-inf < a < b < inf for a, b in zip(low, high, strict=True)):
            raise ValueError(
                f"point_range must be six lengths in metres, a low x, y, z below a high one, "
                f"got {self.point_range}"
            )
        if len(size) != 3 or not all(s > 0 for s in size):
            raise ValueError(f"voxel_size must be three lengths in metres (x, y, z) > 0, got {size}")
        if min(self.shape) < 1:
            raise ValueError(f"voxel_size must fit into point_range {self.point_range}, got {size}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells along (z, y, x)."""
        low, high = self.point_range[:3], self.point_range[3:]
        x, y, z = (round((b - a) / s) for a, b, s in zip(low, high, self.voxel_size, strict=True))
        return z, y, x


@dataclass(frozen=True, kw_only=True)
class Voxels:
    """Features of the occupied cells of a batch of grids.

    features: (M, C).  coords: (M, 4) int64 rows (b, z, y, x), no row twice, in any order.
    shape: cells along (z, y, x).  batch_size: grids, some of which may be empty.
    ``cache`` holds what depends on the coordinates alone (pair lists, orders); ``with_features`` shares it.
    """

    features: Tensor
    coords: Tensor
    shape: tuple[int, int, int]
    batch_size: int
    cache: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.coords.ndim != 2 or self.coords.shape[1] != 4 or self.coords.dtype != torch.int64:
            got = f"{tuple(self.coords.shape)} {self.coords.dtype}"
            raise ValueError(f"coords must be (M, 4) int64 rows (b, z, y, x), got {got}")
        if len(self.features) != len(self.coords):
            rows = f"{len(self.coords)} voxels, got {len(self.features)}"
            raise ValueError(f"features must have a row for each of the {rows}")

    def __len__(self) -> int:
        return len(self.coords)

    def with_features(self, features: Tensor) -> Voxels:
        """The same cells with other features (M, any width)."""
        return replace(self, features=features)

    def cached(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` gives for these coordinates, made once."""
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]

    def keys(self) -> Tensor:
        """(M,) int64, one number a cell: rows in (b, z, y, x) order have rising keys."""
        b, z, y, x = self.coords.unbind(1)
        depth, height, width = self.shape
        return ((b * depth + z) * height + y) * width + x
