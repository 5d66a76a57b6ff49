"""The whole backbone: official names, a dense form from the formulas, order of voxels, empty frames."""

import re

import pytest
import torch

from linzoo.pointcloud.scatterformer import (
    VARIANTS,
    ScatterFormer,
    ScatterFormerConfig,
    from_official,
    to_official,
)
from linzoo.pointcloud.voxels import VoxelGrid, Voxels

from ..parity_fill import figures
from .scatterformer_dense import backbone

SHAPES = figures("pointcloud_checkpoint_shapes")
SIZE = (6, 11, 9)  # no multiple of the window along y and x


def grid_of(size: tuple[int, int, int]) -> VoxelGrid:
    z, y, x = map(float, size)
    return VoxelGrid(point_range=(0.0, 0.0, 0.0, x, y, z), voxel_size=(1.0, 1.0, 1.0))


CONFIG = ScatterFormerConfig(grid=grid_of(SIZE), window=4, channels_in=8, channels=16, pool_heads=4, layers=2)


def scene(voxels=150, *, size=SIZE, frames=2, dtype=torch.float32) -> Voxels:
    """Cells drawn from the lower left, so that windows differ in length and some columns are full."""
    z, y, x = size
    cells = torch.randperm(frames * z * y * x)
    b, rest = cells // (z * y * x), cells % (z * y * x)
    coords = torch.stack([b, rest // (y * x), rest // x % y, rest % x], 1)
    coords = coords[(torch.rand(len(coords)) < 1.2 - (coords[:, 2] + coords[:, 3]) / (x + y))][:voxels]
    features = torch.randn(len(coords), 8, dtype=dtype)
    return Voxels(features=features, coords=coords, shape=size, batch_size=frames)


def model(config=CONFIG, dtype=torch.float32, **words) -> ScatterFormer:
    """Random weights, of which depthwise ones are smaller than drawn, and running statistics that matter."""
    net = ScatterFormer(config, **words)
    for name, value in net.state_dict().items():
        if value.dim() == 1:
            value.add_(0.2 * torch.rand_like(value))
        elif "conv_" in name:
            value.mul_(0.3)
    return net.to(dtype)


def permuted(voxels: Voxels) -> Voxels:
    order = torch.randperm(len(voxels))
    return Voxels(
        features=voxels.features[order],
        coords=voxels.coords[order],
        shape=voxels.shape,
        batch_size=voxels.batch_size,
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_names_shapes_and_counts_are_the_official_ones(name):
    wanted = SHAPES["scatterformer_waymo"]["state_dict"] | SHAPES[name].get("differs", {})
    with torch.device("meta"):
        net = ScatterFormer(VARIANTS[name])
    assert {k: list(v.shape) for k, v in net.state_dict().items()} == wanted
    assert sum(p.numel() for p in net.parameters()) == SHAPES[name]["params"]


@pytest.mark.parametrize(
    ("name", "shape", "pillar"),
    [("scatterformer_waymo", (32, 480, 480), 8), ("scatterformer_nuscenes", (40, 360, 360), 10)],
)
def test_grids_of_the_published_forms(name, shape, pillar):
    config = VARIANTS[name]
    assert config.grid.shape == shape and config.pillar_height == pillar == (shape[0] + 1) // 4


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_backbone_equals_its_dense_form_with_every_gradient(training):
    net = model(dtype=torch.float64).train(training)
    voxels = scene(dtype=torch.float64)
    voxels.features.requires_grad_()
    out = net(voxels)
    want, cells = backbone(net, voxels)
    assert torch.equal(out.coords[:, [0, 2, 3]], cells) and not out.coords[:, 1].any()
    torch.testing.assert_close(out.features, want, rtol=1e-8, atol=1e-8)
    named = dict(net.named_parameters()) | {"rows": voxels.features}
    probe = torch.randn_like(want)
    got = torch.autograd.grad((out.features * probe).sum(), list(named.values()))
    dense = torch.autograd.grad((want * probe).sum(), list(named.values()))
    for name, a, b in zip(named, got, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("size", [(2, 5, 5), (3, 8, 4), (5, 4, 7), (8, 7, 1), (9, 1, 6)], ids=str)
def test_any_grid_equals_the_dense_form(size):
    config = ScatterFormerConfig(
        grid=grid_of(size), window=2, channels_in=8, channels=16, pool_heads=4, layers=1
    )
    net, voxels = model(config, torch.float64).eval(), scene(60, size=size, dtype=torch.float64)
    with torch.no_grad():
        out, (want, cells) = net(voxels), backbone(net, voxels)
    _, y, x = size
    assert out.shape == (1, -(-y // 2), -(-x // 2)) and torch.equal(out.coords[:, [0, 2, 3]], cells)
    torch.testing.assert_close(out.features, want, rtol=1e-8, atol=1e-8)


def test_a_grid_that_is_lower_than_the_configs_uses_fewer_heights():
    net, voxels = model(dtype=torch.float64).eval(), scene(60, size=(4, 11, 9), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(voxels).features, backbone(net, voxels)[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_order_of_the_voxels_does_not_change_the_output(training):
    net = model(dtype=torch.float64).train(training)
    voxels = scene(dtype=torch.float64)
    a, b = net(voxels), net(permuted(voxels))
    assert torch.equal(a.coords, b.coords)
    torch.testing.assert_close(a.features, b.features, rtol=1e-8, atol=1e-8)


def test_the_same_voxels_give_the_same_bits():
    net, voxels = model(), scene()
    results = []
    for _ in range(2):
        net.zero_grad()
        again = Voxels(features=voxels.features, coords=voxels.coords, shape=SIZE, batch_size=2)
        out = net.train()(again).features  # with an empty cache
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad.clone() for p in net.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_frames_do_not_see_each_other_and_empty_ones_leave_no_rows():
    net, alone = model(dtype=torch.float64).eval(), scene(frames=1, dtype=torch.float64)
    other = scene(frames=1, dtype=torch.float64)
    frame = torch.tensor([1, 0, 0, 0])
    batch = Voxels(
        features=torch.cat([alone.features, other.features]),
        coords=torch.cat([alone.coords + frame, other.coords + 3 * frame]),
        shape=SIZE,
        batch_size=5,
    )
    with torch.no_grad():
        out, want = net(batch), net(alone)
    mine = out.coords[:, 0] == 1
    assert out.batch_size == 5 and set(out.coords[:, 0].tolist()) == {1, 3}
    assert torch.equal(out.coords[mine], want.coords + frame)
    torch.testing.assert_close(out.features[mine], want.features, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("count", [0, 1])
def test_a_batch_of_empty_frames_or_of_one_voxel_works(count, training):
    net = model().train(training)
    voxels = scene(count)
    out = net(voxels)
    out.features.sum().backward()
    assert bool(len(out)) == bool(count)  # one voxel becomes several by the strided convolution
    assert out.shape == (1, 6, 5) and out.features.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert all(v.isfinite().all() for v in net.state_dict().values())


def test_every_parameter_gets_a_gradient_and_moves():
    """Optimisers that collect leaf modules' parameters never train in_proj of the pillars' attention."""
    net = model(dtype=torch.float64).eval()  # in training, a bias before a batch norm has gradient 0
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-3)
    out = net(scene(dtype=torch.float64)).features
    (out * torch.randn_like(out)).sum().backward()
    before = {k: p.detach().clone() for k, p in net.named_parameters()}
    optimiser.step()
    assert {"app.self_attn.in_proj_weight", "app.self_attn.in_proj_bias"} <= set(before)
    for name, parameter in net.named_parameters():
        assert parameter.grad.abs().max() > 0, name
        assert not torch.equal(parameter, before[name]), name


def test_backends_agree():
    voxels = scene(dtype=torch.float64)
    torch.manual_seed(1)
    a = model(dtype=torch.float64, backend="eager").eval()(voxels)
    torch.manual_seed(1)
    b = model(dtype=torch.float64, backend="reference").eval()(voxels)
    torch.testing.assert_close(a.features, b.features, rtol=1e-9, atol=1e-9)


def test_a_detectors_file_loads_by_name_and_is_written_back():
    net = model()
    file = to_official(net.state_dict()) | {"vfe.pfn_layers.0.linear.weight": torch.zeros(1)}
    assert all(k.startswith(("backbone_3d.", "vfe.")) for k in file)
    fresh = ScatterFormer(CONFIG)
    for given in (file, net.state_dict()):
        fresh.load_state_dict(from_official(given, CONFIG))
        assert all(torch.equal(v, net.state_dict()[k]) for k, v in fresh.state_dict().items())


def test_a_file_of_another_model_is_refused_with_the_names():
    tensors = dict(model().state_dict())
    del tensors["app.norm.bias"]
    tensors["app.extra"] = torch.zeros(1)
    told = "tensors of this ScatterFormer; missing: app.norm.bias; not its own: app.extra"
    with pytest.raises(ValueError, match=told):
        from_official(tensors, CONFIG)


def test_a_tensor_of_another_shape_is_refused_with_both_shapes():
    tensors = dict(model().state_dict())
    tensors["stage1.2.weight"] = torch.zeros(3, 3, 3, 16, 16)  # spconv 1 put the outputs last
    told = "tensors must have stage1.2.weight of shape (16, 3, 3, 3, 16), got (3, 3, 3, 16, 16)"
    with pytest.raises(ValueError, match=re.escape(told)):
        from_official(tensors, CONFIG)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"window": 5}, "window must be an even number of cells >= 2, got 5"),
        ({"heads": 3}, "heads must divide channels = 16, got 3"),
        ({"pool_heads": 5}, "heads must divide channels = 16, got 5"),
        ({"channels": 18, "heads": 3, "pool_heads": 3}, "channels must be a multiple of 4, got 18"),
        ({"grid": grid_of((1, 4, 4))}, "grid must be at least 2 cells high, got 1"),
    ],
    ids=["odd window", "heads", "pool heads", "groups", "flat grid"],
)
def test_bad_sizes_are_refused(changes, text):
    sizes = dict(grid=CONFIG.grid, window=4, channels_in=8, channels=16, heads=4, pool_heads=4)
    with pytest.raises(ValueError, match=text):
        ScatterFormer(ScatterFormerConfig(**(sizes | changes)))


@pytest.mark.parametrize(
    ("voxels", "text"),
    [
        (scene(9).with_features(torch.zeros(9, 7)), r"voxels must have features \(M, 8\), .* got \(9, 7\)"),
        (scene(9, size=(7, 3, 3)), r"voxels must lie on a grid of 2 .. 6 cells in z, got \(7, 3, 3\)"),
        (scene(9, size=(1, 9, 9)), r"voxels must lie on a grid of 2 .. 6 cells in z, got \(1, 9, 9\)"),
    ],
    ids=["width", "too high", "too low"],
)
def test_voxels_that_do_not_fit_are_refused(voxels, text):
    with pytest.raises(ValueError, match=text):
        model()(voxels)
