"""The voxel feature encoder: upstream's figures, its definition by loops, and order of points."""

import numpy as np
import pytest
import torch

from linzoo.pointcloud.layers import BatchNorm
from linzoo.pointcloud.segment_max import segment_max
from linzoo.pointcloud.vfe import DynamicVoxelFeatureEncoder
from linzoo.pointcloud.voxelize import voxelize
from linzoo.pointcloud.voxels import VoxelGrid

from ..parity_fill import assert_matches, figures, fill

RECORDED = figures("pointcloud_heads")["vfe"]
GRID = VoxelGrid(
    point_range=tuple(map(float, RECORDED["config"]["range"])),
    voxel_size=tuple(RECORDED["config"]["voxel_size"]),
)


def recorded_points() -> list[torch.Tensor]:
    rs = np.random.RandomState(101)
    xyz = rs.uniform([-0.3, -3.3, -1.1], [8.3, 3.3, 1.1], (240, 3))
    rows = torch.from_numpy(np.concatenate([xyz, rs.rand(240, 2)], 1)).float()
    return [rows[:120], rows[120:]]


def encoder(dtype=torch.float32, **words) -> DynamicVoxelFeatureEncoder:
    vfe = DynamicVoxelFeatureEncoder(5, (32, 32), **words)
    vfe.load_state_dict(fill(RECORDED["state_dict"]))
    return vfe.to(dtype).eval()


def by_loops(vfe: DynamicVoxelFeatureEncoder, points) -> torch.Tensor:
    """One voxel at a time, by the formulas, float64."""
    where = voxelize([p.double() for p in points], GRID)
    size, low = torch.tensor(GRID.voxel_size).double(), torch.tensor(GRID.point_range[:3]).double()
    out = []
    for at, rows in zip(where.coords, where.points.split(where.lengths.tolist()), strict=True):
        xyz, centre = rows[:, :3], at[[3, 2, 1]] * size + size / 2 + low
        values = torch.cat(
            [xyz, torch.stack([v.tanh() if i in vfe.tanh else v for i, v in enumerate(rows.T)][3:], 1)], 1
        )
        x = torch.cat([values, xyz - xyz.mean(0), xyz - centre], 1)
        for layer in vfe.pfn_layers:
            x = layer.norm(layer.linear(x)).relu()
            largest = x.amax(0)
            x = torch.cat([x, largest.expand(len(x), -1)], 1)
        out.append(largest)
    return torch.stack(out)


def test_names_and_shapes_are_the_official_ones():
    shapes = {k: list(v.shape) for k, v in DynamicVoxelFeatureEncoder(5, (32, 32)).state_dict().items()}
    assert shapes == RECORDED["state_dict"]
    assert sum(p.numel() for p in encoder().parameters()) == RECORDED["params"]


def test_cells_and_features_are_upstreams():
    with torch.no_grad():
        voxels = encoder()(voxelize(recorded_points(), GRID))
    assert voxels.coords.tolist() == RECORDED["coords_bzyx"]
    assert list(reversed(voxels.shape)) == RECORDED["config"]["grid_xyz"] and voxels.batch_size == 2
    assert_matches(voxels.features, RECORDED["output"], 1e-5)


@pytest.mark.parametrize("tanh", [(), (3,), (3, 4)])
def test_features_are_those_of_the_definition_one_voxel_at_a_time(tanh):
    points = [3 * p for p in recorded_points()]  # intensities that tanh bends
    vfe = encoder(torch.float64, tanh=tanh)
    with torch.no_grad():
        want = by_loops(vfe, points)
        got = vfe(voxelize([p.double() for p in points], GRID)).features
        rounded = encoder(tanh=tanh)(voxelize(points, GRID)).features
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(rounded.double(), want, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_the_definition_one_voxel_at_a_time():
    vfe, points = encoder(torch.float64), recorded_points()
    got_out = vfe(voxelize([p.double() for p in points], GRID)).features
    probe = torch.randn_like(got_out)
    got = torch.autograd.grad((got_out * probe).sum(), list(vfe.parameters()))
    want = torch.autograd.grad((by_loops(vfe, points) * probe).sum(), list(vfe.parameters()))
    for (name, _), a, b in zip(vfe.named_parameters(), got, want, strict=True):
        assert a.abs().max() > 0, name
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10, msg=name)


def test_the_order_of_the_points_changes_neither_features_nor_gradients():
    vfe, points = encoder(torch.float64).train(), [p.double() for p in recorded_points()]
    points[0] = torch.cat([points[0], points[0][:9]])  # ties: the same point twice
    results = []
    for frames in (points, [p[torch.randperm(len(p))] for p in points]):
        vfe.zero_grad()
        out = vfe(voxelize(frames, GRID)).features
        (out * out.detach().cos()).sum().backward()
        results.append([out.detach(), *(p.grad.clone() for p in vfe.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_points_that_tie_share_the_gradient_of_their_maximum():
    rows = torch.tensor([[1.0], [1.0], [0.5], [2.0]], requires_grad=True)
    largest = segment_max(rows, torch.tensor([3, 1]))
    largest.backward(torch.tensor([[4.0], [3.0]]))
    assert largest.flatten().tolist() == [1.0, 2.0] and rows.grad.flatten().tolist() == [2.0, 2.0, 0.0, 3.0]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("points", [0, 1])
def test_a_batch_of_empty_frames_or_of_one_point_works(training, points):
    vfe = encoder().train(training)
    before = {k: v.clone() for k, v in vfe.state_dict().items()}
    frames = [torch.zeros(0, 5), torch.tensor([[1.0, 0, 0, 1, 1]])[:points]]
    voxels = vfe(voxelize(frames, GRID))
    voxels.features.sum().backward()
    assert voxels.features.shape == (points, 32) and voxels.batch_size == 2
    assert voxels.features.isfinite().all()
    for name, value in vfe.state_dict().items():
        assert torch.equal(value, before[name]), name  # one row has no variance to learn from


def test_batch_norm_is_torchs_from_two_rows_on():
    ours, theirs = BatchNorm(4), torch.nn.BatchNorm1d(4, eps=1e-3, momentum=0.01)
    rows = torch.randn(6, 4)
    assert torch.equal(ours(rows), theirs(rows)) and torch.equal(ours.running_var, theirs.running_var)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"point_features": 2}, r"point_features must be >= 3 \(x, y, z first\), got 2"),
        ({"widths": ()}, r"widths must be sizes >= 1, .* got \(\)"),
        ({"widths": (31, 32)}, r"widths must be .* even ones but for the last, got \(31, 32\)"),
        ({"tanh": (2,)}, r"tanh must be indices in 3 .. 4, got \(2,\)"),
        ({"tanh": (5,)}, r"tanh must be indices in 3 .. 4, got \(5,\)"),
    ],
)
def test_bad_arguments_are_refused(words, text):
    with pytest.raises(ValueError, match=text):
        DynamicVoxelFeatureEncoder(**({"point_features": 5} | words))


def test_points_with_other_values_are_refused():
    with pytest.raises(ValueError, match="points must have 5 values each, got 4"):
        encoder()(voxelize([torch.zeros(3, 4)], GRID))
