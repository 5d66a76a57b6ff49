"""Layers, blocks and position embeddings: the recorded figures, samples of any size, rows in any order."""

import pytest
import torch

from linzoo.pointcloud.lion.block import LionBlock
from linzoo.pointcloud.lion.layer import LionLayer
from linzoo.pointcloud.lion.operators import OPERATORS as REGISTERED
from linzoo.pointcloud.lion.position import PositionEmbedding, scaled_cells
from linzoo.pointcloud.windows import window_order

from ..parity_fill import assert_matches, figures
from .lion_cases import TOLERANCE, assert_gradient, cells, filled, permuted, sample, scattered

RECORDED = figures("lion_structure")
RESULTS = RECORDED["results"]
SHAPE = tuple(RECORDED["grouping"]["spatial_shape_zyx"])
OPERATORS = {  # name in the figures: ours, and its words
    "RetNet": ("retnet", {"heads": 2}),
    "Mamba": ("mamba", {}),
    "RWKV": ("rwkv", {"heads": 1}),
    "xLSTM": ("mlstm", {}),
    "TTT": ("ttt", {"heads": 4}),
}
LAYERS = [name for name in RESULTS if name.startswith("layer_")]


def recorded_voxels(figure, dtype):
    given = figure["config"]["input"]
    voxels = cells(
        RECORDED["grouping"]["coords_bzyx"], SHAPE, given["shape"][1], dtype=dtype, seed=given["seed"]
    )
    voxels.features.requires_grad_()
    return voxels


def recorded_layer(figure):
    config = figure["config"]
    operator, words = OPERATORS[config["operator"]]
    return LionLayer(
        config["dim"],
        operator=operator,
        window=tuple(config["window_shape"][::-1]),
        group_size=config["group_size"],
        shifted=config["shift"],
        layer_id=config["layer_id"],
        n_layer=config["n_layer"],
        operator_words=words,
    )


def recorded_block(figure):
    config = figure["config"]
    operator, words = OPERATORS[config["operator"]]
    return LionBlock(
        config["dim"],
        operator=operator,
        window=tuple(config["window_shape"][::-1]),
        group_size=config["group_size"],
        downs=tuple(tuple(down[::-1]) for down in config["down_scales"]),
        operator_words=words,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", [*LAYERS, "block_retnet"])
def test_layers_and_blocks_are_those_recorded(name, dtype):
    figure = RESULTS[name]
    make = recorded_block if name.startswith("block") else recorded_layer
    module = filled(make(figure), figure["state_dict"], dtype)
    voxels = recorded_voxels(figure, dtype)
    out = module(voxels)
    assert sum(p.numel() for p in module.parameters()) == figure["params"]
    assert out.coords is voxels.coords and out.shape == voxels.shape
    assert_matches(out.features, figure["output"], TOLERANCE)
    assert_gradient(out.features, voxels.features, figure["input_grad"])


def small(kind, **words):
    torch.manual_seed(1)
    usual = {"operator": "retnet", "operator_words": {"heads": 2}, "window": (4, 5, 5), "group_size": 16}
    return kind(16, **(usual | words)).double().eval()


KINDS = pytest.mark.parametrize("kind", [LionLayer, LionBlock])
PADDINGS = pytest.mark.parametrize("padding", ["repeat", "none"])


@PADDINGS
@KINDS
def test_a_batch_gives_what_its_samples_give_alone(kind, padding):
    """Samples of no voxel, of one, of fewer than a group, of whole groups and of some over."""
    voxels, module = scattered((0, 1, 7, 48, 0, 37)), small(kind, padding=padding)
    out = module(voxels).features
    for b in range(voxels.batch_size):
        alone, rows = sample(voxels, b)
        torch.testing.assert_close(out[rows], module(alone).features)


@PADDINGS
@KINDS
def test_the_order_of_rows_does_not_change_what_a_voxel_gets(kind, padding):
    voxels, module = scattered((21, 40)), small(kind, padding=padding)
    other, order = permuted(voxels)
    torch.testing.assert_close(module(voxels).features[order], module(other).features)


@pytest.mark.parametrize("operator", REGISTERED)
def test_padding_changes_nothing_where_every_group_is_full(operator):
    voxels, words = scattered((48, 0, 16)), {"operator": operator, "operator_words": {}}
    repeated, packed = (
        small(LionLayer, padding=padding, **words)(voxels).features for padding in ("repeat", "none")
    )
    torch.testing.assert_close(repeated, packed)


@pytest.mark.parametrize("operator", REGISTERED)
def test_without_padding_no_operator_lets_groups_or_samples_meet(operator):
    voxels = scattered((1, 7, 37))
    layer = small(LionLayer, padding="none", operator=operator, operator_words={})
    out = layer(voxels).features
    for b in range(voxels.batch_size):
        alone, rows = sample(voxels, b)
        torch.testing.assert_close(out[rows], layer(alone).features)


def test_repeated_voxels_feed_the_recurrence_of_a_group_that_is_not_full():
    """So the named option is another model there, and the published one stays the default."""
    voxels = scattered((37,))
    repeated, packed = (small(LionLayer, padding=padding)(voxels).features for padding in ("repeat", "none"))
    assert (repeated - packed).abs().max() > 1e-6


def test_without_padding_a_group_is_the_operator_on_its_voxels_alone():
    voxels, layer = scattered((20,)), small(LionLayer, padding="none", shifted=True)
    features = voxels.features
    for axis, block in zip(("x", "y"), layer.blocks, strict=True):
        order = window_order(voxels, layer.window, axis=axis, shifted=True)
        parts = [block(features[rows].unsqueeze(0)).squeeze(0) for rows in order.split(16)]
        features = torch.empty_like(features).index_copy(0, order, torch.cat(parts))
    torch.testing.assert_close(layer(voxels).features, features)


def test_shift_window_group_and_second_operator_have_an_effect():
    voxels = scattered((21, 40))
    plain = small(LionLayer)(voxels).features
    for words in ({"shifted": True}, {"window": (4, 3, 3)}, {"group_size": 12}):
        assert (small(LionLayer, **words)(voxels).features - plain).abs().max() > 1e-9
    one = small(LionLayer)
    one.blocks[1] = torch.nn.Identity()
    one.blocks[1].forward = lambda tokens, cu_seqlens: tokens
    assert (one(voxels).features - plain).abs().max() > 1e-9


@KINDS
def test_every_parameter_gets_a_gradient(kind):
    voxels, module = scattered((21, 40)), small(kind).train()
    (module(voxels).features ** 2).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_operators_are_numbered_through_a_block():
    block = small(LionBlock, layer_id=8, n_layer=34)
    layers = (*block.encoder, *block.decoder)
    assert [op.layer_id for layer in layers for op in layer.blocks] == list(range(8, 16))
    assert all(op.n_layer == 34 for layer in layers for op in layer.blocks)
    assert [layer.shifted for layer in layers] == [False, True, False, True]


def test_drop_path_reaches_every_operator_and_none_is_the_default():
    voxels = scattered((21, 40))
    certain, dropped = small(LionLayer).train(), small(LionLayer, drop_path=0.5).train()
    torch.testing.assert_close(certain(voxels).features, certain.eval()(voxels).features)
    torch.testing.assert_close(dropped.eval()(voxels).features, certain(voxels).features)
    dropped.train()
    assert (dropped(voxels).features - certain(voxels).features).abs().max() > 1e-6


@pytest.mark.parametrize("shape", [(7, 11, 13), (1, 5, 6)], ids=str)
def test_blocks_run_on_odd_and_flat_grids(shape):
    voxels = scattered((20, 3), shape=shape)
    out = small(LionBlock)(voxels)
    assert torch.equal(out.coords, voxels.coords) and out.features.isfinite().all()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("counts", [(0,), (0, 0), (1,), (1, 0)], ids=str)
def test_blocks_take_no_voxel_and_one(counts, training):
    block = small(LionBlock).train(training)
    out = block(scattered(counts))
    assert out.features.shape == (sum(counts), 16) and out.features.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in block.buffers())


def test_positions_run_from_minus_to_plus_half_a_turn_along_x_y_z():
    voxels = cells([[0, 0, 0, 0], [0, 4, 10, 3], [1, 7, 19, 23]], (8, 20, 24))
    turn = 3.1415
    wanted = [[-turn, -turn, -turn], [-turn * 3 / 4, 0, 0], [turn * 11 / 12, turn * 9 / 10, turn * 3 / 4]]
    torch.testing.assert_close(scaled_cells(voxels, torch.float64), torch.tensor(wanted, dtype=torch.float64))


def test_neighbouring_cells_of_wide_grids_stay_apart_in_bfloat16():
    """Numbers of cells beyond 256 are not exact there, so the offset is taken before rounding."""
    voxels = cells([[0, 0, 0, 512], [0, 0, 0, 513]], (1, 1, 1024))
    x = scaled_cells(voxels, torch.bfloat16)[:, 0]
    assert x[0] == 0 and x[1] > 0


def test_position_norms_have_torch_s_defaults_and_not_the_detectors():
    norm = PositionEmbedding(8).position_embedding_head[1]
    assert (norm.eps, norm.momentum) == (1e-5, 0.1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"operator": "retnat"}, r"operator must be one of .*got 'retnat' \(did you mean 'retnet'\?\)"),
        ({"window": (0, 5, 5)}, r"window must be three whole numbers of cells \(z, y, x\) > 0"),
        ({"group_size": -1}, r"group must be a whole number of voxels >= 1, got -1"),
        ({"padding": "zeros"}, r"padding must be one of \('repeat', 'none'\), got 'zeros'"),
        ({"drop_path": 1.0}, r"drop_path must be a probability in \[0, 1\), got 1.0"),
    ],
)
@KINDS
def test_words_that_are_none_are_refused(kind, words, message):
    with pytest.raises(ValueError, match=message):
        small(kind, **words)
