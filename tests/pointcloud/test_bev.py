"""The bird's-eye map of voxels against a loop over cells."""

import torch

from linzoo.pointcloud.bev import bev_map
from linzoo.pointcloud.voxels import Voxels

SHAPE = (2, 4, 5)
COORDS = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 2], [0, 0, 3, 4], [2, 1, 0, 0], [2, 1, 2, 3]])


def voxels(features: torch.Tensor, coords: torch.Tensor = COORDS) -> Voxels:
    return Voxels(features=features, coords=coords, shape=SHAPE, batch_size=3)


def test_channel_c_of_height_z_is_channel_c_times_depth_plus_z():
    features = torch.randn(len(COORDS), 3)
    expected = torch.zeros(3, 3 * SHAPE[0], *SHAPE[1:])
    for row, (b, z, y, x) in enumerate(COORDS.tolist()):
        for c in range(3):
            expected[b, c * SHAPE[0] + z, y, x] = features[row, c]
    assert torch.equal(bev_map(voxels(features)), expected)


def test_the_gradient_is_the_gather_at_the_voxels():
    features = torch.randn(len(COORDS), 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: bev_map(voxels(f)), features)


def test_the_order_of_the_rows_does_not_matter():
    features, order = torch.randn(len(COORDS), 3), torch.tensor([3, 0, 4, 2, 1])
    assert torch.equal(bev_map(voxels(features)), bev_map(voxels(features[order], COORDS[order])))


def test_no_voxels_give_an_empty_map():
    none = voxels(torch.zeros(0, 3), torch.zeros(0, 4, dtype=torch.int64))
    assert torch.equal(bev_map(none), torch.zeros(3, 6, 4, 5))
