"""Voxels and small LION parts that several tests use."""

import torch

from linzoo.pointcloud.lion.variants import LionConfig
from linzoo.pointcloud.voxels import VoxelGrid, Voxels

from ..parity_fill import assert_matches, fill, random

GRID = VoxelGrid(point_range=(0.0, 0.0, 0.0, 24.0, 20.0, 32.0), voxel_size=(1.0, 1.0, 1.0))
TOLERANCE = 1e-4  # the recorded runs are float32


def cells(rows, shape, channels=1, batch_size=None, dtype=torch.float32, seed=0):
    """Voxels at rows (b, z, y, x) with drawn features."""
    coords = torch.as_tensor(rows, dtype=torch.int64).reshape(-1, 4)
    size = int(coords[:, 0].max()) + 1 if batch_size is None else batch_size
    features = random((len(coords), channels), seed).to(dtype)
    return Voxels(features=features, coords=coords, shape=tuple(shape), batch_size=size)


def scattered(counts, shape=(8, 12, 14), channels=16, dtype=torch.float64, seed=0):
    """counts[b] voxels in grid b, in the order of their cells."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for b, count in enumerate(counts):
        z, y, x = shape
        key = torch.randperm(z * y * x, generator=generator)[:count].sort().values
        rows.append(torch.stack([torch.full_like(key, b), key // (y * x), key // x % y, key % x], 1))
    return cells(torch.cat(rows), shape, channels, len(counts), dtype, seed)


def sample(voxels, b):
    """Grid b on its own, and its rows in the batch."""
    rows = (voxels.coords[:, 0] == b).nonzero().squeeze(1)
    coords = voxels.coords[rows].clone()
    coords[:, 0] = 0
    alone = Voxels(features=voxels.features[rows], coords=coords, shape=voxels.shape, batch_size=1)
    return alone, rows


def permuted(voxels, seed=0):
    """The same voxels with their rows in another order, and that order."""
    order = torch.randperm(len(voxels), generator=torch.Generator().manual_seed(seed))
    return (
        Voxels(
            features=voxels.features[order],
            coords=voxels.coords[order],
            shape=voxels.shape,
            batch_size=voxels.batch_size,
        ),
        order,
    )


def filled(module, shapes, dtype=torch.float32):
    """The module in eval mode with the recorded fill, by official names; names and shapes must be these."""
    state = module.state_dict()
    assert {k: list(v.shape) for k, v in state.items()} == shapes
    module.load_state_dict(fill(shapes))
    return module.to(dtype).eval()


def assert_gradient(output, inputs, figure):
    """Of the sum of output times the probe."""
    probe = random(output.shape, 7).to(output.dtype)
    (gradient,) = torch.autograd.grad((output * probe).sum(), inputs)
    assert_matches(gradient, figure, TOLERANCE, "input_grad")


def small_config(**words):
    """A backbone of 16 channels that takes milliseconds."""
    return LionConfig(
        **{
            "channels": 16,
            "grid": GRID,
            "operator_words": {"heads": 2},
            "windows": ((8, 5, 5),) * 4,
            "groups": (32, 24, 16, 16),
            "out_group": 24,
            **words,
        }
    )
