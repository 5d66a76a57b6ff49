"""Coarser voxels out of finer ones, with voxel generation, and the way back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...kernels import segment_gather, segment_sum
from ..sparse import SubmanifoldConv3d
from ..voxels import Voxels
from ..windows import Cells
from .generation import check_generation, generated_cells


class CoarseCells(NamedTuple):
    """coords: (M', 4) int64 rows (b, z, y, x), sorted by (b, x, y, z).  parent: (M,) int64, the coarse row
    that each fine cell lies in.  shape: coarse cells along (z, y, x).
    """

    coords: Tensor
    parent: Tensor
    shape: Cells


def coarse_cells(coords: Tensor, shape: Cells, down: Cells) -> CoarseCells:
    """Cells c // down; fine cells may repeat each other.

    Keys count ceil(size / down) coarse cells an axis, as many as there are: strides of floor(size / down)
    let the last row of an odd grid fall on a neighbour's key.
    """
    z, y, x = shape = coarse_shape(shape, down)
    cells = coords.clone()
    cells[:, 1:] //= coords.new_tensor(down)
    b, cz, cy, cx = cells.unbind(1)
    keys, parent = torch.unique(((b * x + cx) * y + cy) * z + cz, return_inverse=True)
    coarse = torch.stack([keys // (x * y * z), keys % z, keys // z % y, keys // (z * y) % x], 1)
    return CoarseCells(coarse, parent, shape)


def coarse_shape(shape: Cells, down: Cells) -> Cells:
    """ceil(size / down) along (z, y, x)."""
    z, y, x = (-(-size // step) for size, step in zip(shape, down, strict=True))
    return z, y, x


class Merge(nn.Module):
    """Submanifold convolution, LN, GELU; [generation]; sums of the features in each coarse cell; LN.

    channels: C, kept.  down: fine cells of a coarse one along (z, y, x).  generate_share: for each sample,
    the share of its voxels, most active first, beside which ``generate_ways`` (4 or 2) voxels of zero
    features are put before merging; 0: none. A coarse cell that holds nothing else starts as the norm's bias.
    Raises ValueError for words that are none of these.
    """

    def __init__(
        self, channels: int, down: Cells, *, generate_share: float = 0.0, generate_ways: int = 4
    ) -> None:
        super().__init__()
        if len(down) != 3 or not all(isinstance(step, int) and step > 0 for step in down):
            raise ValueError(f"down must be three whole numbers of cells (z, y, x) > 0, got {down}")
        check_generation(generate_share, generate_ways)
        self.down, self.generate_share, self.generate_ways = down, generate_share, generate_ways
        self.sub_conv = nn.Sequential(
            SubmanifoldConv3d(channels, channels, 3), nn.LayerNorm(channels), nn.GELU()
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, voxels: Voxels) -> tuple[Voxels, Tensor]:
        """-> the coarse voxels, sorted by (b, x, y, z), and the coarse row of each fine one, then of each
        generated one, (M + generated,) int64.
        """
        conv, norm, act = self.sub_conv
        voxels = conv(voxels)
        voxels = voxels.with_features(act(norm(voxels.features)))
        coarse = self.cells(voxels)
        sums = segment_sum(voxels.features, coarse.parent[: len(voxels)], len(coarse.coords))
        merged = Voxels(
            features=self.norm(sums),
            coords=coarse.coords,
            shape=coarse.shape,
            batch_size=voxels.batch_size,
        )
        return merged, coarse.parent

    def cells(self, voxels: Voxels) -> CoarseCells:
        if self.generate_share == 0:
            return voxels.cached(
                ("coarse cells", self.down), lambda: coarse_cells(voxels.coords, voxels.shape, self.down)
            )
        new = generated_cells(voxels, self.generate_share, self.generate_ways)
        return coarse_cells(torch.cat([voxels.coords, new]), voxels.shape, self.down)

    def extra_repr(self) -> str:
        made = f", generate_share={self.generate_share}, generate_ways={self.generate_ways}"
        return f"down={self.down}{made if self.generate_share else ''}"


def expand(coarse: Voxels, fine: Voxels, parent: Tensor) -> Voxels:
    """The fine voxels, each with the features of its coarse cell added: no parameters.

    parent: (M,) int64, as ``Merge`` returned it for voxels with the cells of ``fine``.
    """
    return fine.with_features(fine.features + segment_gather(coarse.features, parent))
