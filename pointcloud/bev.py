"""From voxels to a bird's-eye view: the heights of a column become channels of one map."""

from torch import Tensor

from .voxels import Voxels


def bev_map(voxels: Voxels) -> Tensor:
    """Features (M, C) on a grid (Z, Y, X) -> (B, C * Z, Y, X); channel c * Z + z, empty cells are zero.

    No cell is written twice, so the result has the same bits whatever the order of the rows.
    """
    features, (depth, height, width) = voxels.features, voxels.shape
    dense = features.new_zeros(voxels.batch_size * depth * height * width, features.shape[1])
    dense = dense.index_copy(0, voxels.keys(), features)
    dense = dense.view(voxels.batch_size, depth, height, width, -1)
    return dense.permute(0, 4, 1, 2, 3).reshape(voxels.batch_size, -1, height, width)
