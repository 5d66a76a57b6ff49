"""The convolution modules: what they compute, how weights are laid out and drawn, and shared pair lists."""

import pytest
import torch
from torch.nn.functional import conv3d

from linzoo.pointcloud import sparse
from linzoo.pointcloud.sparse import DepthwiseSubmanifoldConv3d, SparseConv3d, SubmanifoldConv3d
from linzoo.pointcloud.voxels import Voxels

SHAPE = (6, 5, 7)


def some_voxels(channels: int = 3, batch: int = 3, shape=SHAPE) -> Voxels:
    """Sample 1 is empty; rows are in no order."""
    every = torch.cartesian_prod(*(torch.arange(n) for n in (batch, *shape)))
    own = every[(torch.rand(len(every)) < 0.3) & (every[:, 0] != 1)]
    own = own[torch.randperm(len(own))]
    features = torch.randn(len(own), channels, dtype=torch.float64)
    return Voxels(features=features, coords=own, shape=shape, batch_size=batch)


def dense(voxels: Voxels) -> torch.Tensor:
    grid = voxels.features.new_zeros(voxels.batch_size, *voxels.shape, voxels.features.shape[1])
    return grid.index_put(tuple(voxels.coords.t()), voxels.features).permute(0, 4, 1, 2, 3)


def at(grid: torch.Tensor, voxels: Voxels) -> torch.Tensor:
    return grid.permute(0, 2, 3, 4, 1)[tuple(voxels.coords.t())]


@pytest.mark.parametrize("bias", [False, True])
def test_a_submanifold_module_is_conv3d_at_the_same_voxels(bias):
    voxels = some_voxels()
    module = SubmanifoldConv3d(3, 4, (3, 1, 5), bias=bias).double()
    out = module(voxels)
    wanted = conv3d(dense(voxels), module.weight.permute(0, 4, 1, 2, 3), module.bias, padding=(1, 0, 2))
    torch.testing.assert_close(out.features, at(wanted, voxels))
    assert out.coords is voxels.coords and out.shape == SHAPE and out.batch_size == 3


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 1, 1), (2, 1, 1), 0), (3, 2, 1), ((2, 3, 3), (1, 2, 3), (0, 1, 1))],
    ids=["scatterformer", "halving", "uneven"],
)
def test_a_strided_module_is_conv3d_where_it_reaches(kernel, stride, padding, bias):
    voxels = some_voxels()
    module = SparseConv3d(3, 4, kernel, stride, padding, bias=bias).double()
    out = module(voxels)
    weight = module.weight.permute(0, 4, 1, 2, 3)
    wanted = conv3d(dense(voxels), weight, module.bias, stride=stride, padding=padding)
    assert out.shape == tuple(wanted.shape[2:]) and out.batch_size == 3
    torch.testing.assert_close(out.features, at(wanted, out))
    reached = conv3d(dense(voxels).abs(), weight.abs(), stride=stride, padding=padding).sum(1) > 0
    assert torch.equal(out.coords, reached.nonzero())


def test_a_depthwise_module_is_conv3d_by_channel():
    voxels = some_voxels()
    module = DepthwiseSubmanifoldConv3d(3, (1, 1, 5)).double()
    weight = module.weight.permute(3, 0, 1, 2).unsqueeze(1)
    wanted = conv3d(dense(voxels), weight, padding=(0, 0, 2), groups=3)
    torch.testing.assert_close(module(voxels).features, at(wanted, voxels))


def test_weights_are_laid_out_as_in_the_published_checkpoints():
    shapes = {
        SubmanifoldConv3d(3, 4, bias=True): {"weight": (4, 3, 3, 3, 3), "bias": (4,)},
        SparseConv3d(3, 4, (3, 1, 1), (2, 1, 1)): {"weight": (4, 3, 1, 1, 3)},
        DepthwiseSubmanifoldConv3d(5, (1, 1, 13)): {"weight": (1, 1, 13, 5)},
    }
    for module, wanted in shapes.items():
        assert {name: tuple(t.shape) for name, t in module.state_dict().items()} == wanted


def test_weights_are_drawn_as_their_authors_draw_them():
    module = SubmanifoldConv3d(64, 64, bias=True)
    bound = (27 * 64) ** -0.5
    for t in (module.weight, module.bias):
        assert t.abs().max() <= bound and t.abs().max() > 0.9 * bound
    assert abs(module.weight.std() / (bound / 3**0.5) - 1) < 0.02
    depthwise = DepthwiseSubmanifoldConv3d(512).weight
    assert abs(depthwise.mean()) < 0.03 and abs(depthwise.std() - 1) < 0.03


def test_convolutions_over_the_same_voxels_share_their_pair_lists(monkeypatch):
    made = []
    for name in ("submanifold_pairs", "strided_pairs"):
        run = getattr(sparse, name)
        monkeypatch.setattr(
            sparse, name, lambda *args, run=run, name=name: made.append((name, *args[2:])) or run(*args)
        )
    voxels = some_voxels()
    first, second = SubmanifoldConv3d(3, 3).double(), SubmanifoldConv3d(3, 3).double()
    y = DepthwiseSubmanifoldConv3d(3).double()(second(first(voxels)))
    assert made == [("submanifold_pairs", (3, 3, 3))]
    down = [SparseConv3d(3, 3, 3, 2, 1).double() for _ in range(2)]
    a, b = (module(y) for module in down)
    assert a.coords is b.coords and a.cache is b.cache
    first(b)
    second(a)
    assert [name for name, *_ in made] == ["submanifold_pairs", "strided_pairs", "submanifold_pairs"]
    SparseConv3d(3, 3, 3, 2, 0).double()(y)
    SubmanifoldConv3d(3, 3, (1, 1, 3)).double()(y)
    assert len(made) == 5


def test_no_voxels_pass_through():
    coords = torch.empty(0, 4, dtype=torch.int64)
    voxels = Voxels(features=torch.empty(0, 3), coords=coords, shape=SHAPE, batch_size=2)
    out = SparseConv3d(3, 5, 3, 2, 1)(SubmanifoldConv3d(3, 3)(DepthwiseSubmanifoldConv3d(3)(voxels)))
    assert out.features.shape == (0, 5) and out.shape == (3, 3, 4) and out.batch_size == 2


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: SubmanifoldConv3d(3, 4, 2), r"kernel_size must be odd along every axis, got \(2, 2, 2\)"),
        (lambda: DepthwiseSubmanifoldConv3d(3, (1, 2, 1)), r"kernel_size must be odd along every axis"),
        (lambda: SparseConv3d(3, 4, (3, 3)), r"kernel_size must be an integer >= 1, or three along"),
        (lambda: SparseConv3d(3, 4, 3, 0), r"stride must be an integer >= 1, or three .*, got 0"),
        (lambda: SparseConv3d(3, 4, 3, 1, -1), r"padding must be an integer >= 0, or three .*, got -1"),
        (lambda: SparseConv3d(0, 4, 3), r"in_channels must be >= 1, got 0"),
        (lambda: SubmanifoldConv3d(3, 0), r"out_channels must be >= 1, got 0"),
        (lambda: DepthwiseSubmanifoldConv3d(0), r"channels must be >= 1, got 0"),
    ],
    ids=range(8),
)
def test_sizes_that_make_no_convolution_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_a_printed_module_says_its_geometry():
    text = "SparseConv3d(3, 4, kernel_size=(3, 1, 1), stride=(2, 1, 1), padding=(0, 0, 0))"
    assert repr(SparseConv3d(3, 4, (3, 1, 1), (2, 1, 1))) == text
    assert repr(DepthwiseSubmanifoldConv3d(3, 5)) == "DepthwiseSubmanifoldConv3d(3, kernel_size=(5, 5, 5))"
