"""Voxel generation: LION's guess of where a scene goes on beside its most active voxels."""

from __future__ import annotations

import torch
from torch import Tensor

from ...kernels.segments import cu_seqlens_to_lengths, ids_to_cu_seqlens
from ..voxels import Voxels

NEIGHBOURS = ((-1, 1), (1, 1), (-1, -1), (1, -1))  # steps along (x, y); two ways are the first two


def generated_cells(voxels: Voxels, share: float, ways: int) -> Tensor:
    """(ways K, 4) int64 rows (b, z, y, x): neighbours of each sample's most active voxels.

    A step that leaves the grid ends at its edge, so rows may repeat each other and cells that exist. Only
    the set matters. Nothing here has a gradient.
    """
    chosen = voxels.coords[most_active(voxels, share)]
    depth, height, width = voxels.shape
    last = torch.tensor((voxels.batch_size, depth, height, width), device=chosen.device) - 1
    steps = chosen.new_tensor([(0, 0, dy, dx) for dx, dy in NEIGHBOURS[:ways]])
    cells = chosen.unsqueeze(1) + steps
    return torch.minimum(cells.clamp(min=0), last).flatten(0, 1)


def most_active(voxels: Voxels, share: float) -> Tensor:
    """Rows (K,) int64 of the int(share n) voxels with the largest channel mean, of each sample of n voxels.

    Equal means are taken in the order of the cells' keys, whatever the order of rows.
    """
    sample = voxels.coords[:, 0]
    score = voxels.features.detach().mean(1)
    order = voxels.keys().argsort()
    order = order[score[order].argsort(descending=True, stable=True)]
    order = order[sample[order].argsort(stable=True)]
    sample = sample[order]
    offsets = ids_to_cu_seqlens(sample, voxels.batch_size)
    quota = (cu_seqlens_to_lengths(offsets).double() * share).floor().long()
    rank = torch.arange(len(order), device=order.device) - offsets.long()[sample]
    return order[rank < quota[sample]]


def check_generation(share: float, ways: int) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"generate_share must be a share of the voxels in 0 .. 1, got {share}")
    if ways not in (2, 4):
        raise ValueError(f"generate_ways must be 2 or 4 neighbours, got {ways}")
