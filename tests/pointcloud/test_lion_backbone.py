"""The whole backbone: recorded stages and gradient, both paddings, batches, odd grids, empty frames."""

import pytest
import torch

from linzoo.pointcloud.lion import LionBackbone, LionConfig

from ..parity_fill import assert_matches, figures
from .lion_cases import (
    GRID,
    TOLERANCE,
    assert_gradient,
    cells,
    filled,
    permuted,
    sample,
    scattered,
    small_config,
)

RECORDED = figures("lion_backbone")


def recorded_backbone(dtype):
    config = RECORDED["config"]
    backbone = LionBackbone(
        LionConfig(
            channels=config["dim"],
            grid=GRID,
            windows=tuple(tuple(window[::-1]) for window in config["windows"]),
            groups=tuple(config["group_size"]),
            out_window=tuple(config["out_layer"]["window"][::-1]),
            out_group=config["out_layer"]["group"],
            generate_share=config["diff_scale"],
            operator_words={"heads": config["operator"]["n_head"]},
        )
    )
    return filled(backbone, RECORDED["state_dict"], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_stages_output_and_gradient_are_those_recorded(dtype):
    given = RECORDED["config"]["input"]
    shape = RECORDED["config"]["grid_xyz"][::-1]
    voxels = cells(RECORDED["coords_bzyx"], shape, given["shape"][1], dtype=dtype, seed=given["seed"])
    voxels.features.requires_grad_()
    backbone = recorded_backbone(dtype)
    assert sum(p.numel() for p in backbone.parameters()) == RECORDED["params"]
    stages = backbone.stages(voxels)
    for stage, (name, figure) in zip(stages, RECORDED["stages"].items(), strict=True):
        assert list(stage.shape) == figure["spatial_shape"] and len(stage) == figure["n"], name
        assert_matches(stage.features, figure["output"], TOLERANCE, name)
    assert stages[-1].coords.tolist() == RECORDED["output_coords_bzyx"]
    assert_matches(stages[-1].features, RECORDED["output"], TOLERANCE)
    assert_gradient(stages[-1].features, voxels.features, RECORDED["input_grad"])


def small(**words):
    torch.manual_seed(1)
    return LionBackbone(small_config(**words)).double().eval()


BEV = {"bev_windows": ((1, 7, 7), (1, 9, 9), (1, 11, 11)), "bev_groups": (16, 24, 32)}
FORMS = pytest.mark.parametrize("words", [{}, {"padding": "none"}, BEV], ids=["repeat", "none", "bev"])


@FORMS
def test_a_batch_gives_what_its_samples_give_alone(words):
    voxels, backbone = scattered((0, 1, 40, 23), shape=(16, 9, 11)), small(**words)
    out = backbone(voxels)
    for b in range(4):
        alone, _ = sample(voxels, b)
        own, single = out.coords[:, 0] == b, backbone(alone)
        assert torch.equal(out.coords[own][:, 1:], single.coords[:, 1:])
        torch.testing.assert_close(out.features[own], single.features)


@FORMS
def test_the_order_of_rows_does_not_change_the_output(words):
    voxels, backbone = scattered((40, 23), shape=(16, 9, 11)), small(**words)
    one, two = backbone(voxels), backbone(permuted(voxels)[0])
    assert torch.equal(one.coords, two.coords)
    torch.testing.assert_close(one.features, two.features)


@FORMS
def test_every_parameter_gets_a_gradient_and_two_runs_the_same_bits(words):
    voxels = scattered((40, 23), shape=(16, 9, 11))
    runs = []
    for _ in range(2):
        backbone = small(**words).train()
        (backbone(voxels).features ** 2).sum().backward()
        runs.append({name: p.grad for name, p in backbone.named_parameters()})
    for name, gradient in runs[0].items():
        assert gradient is not None and gradient.abs().max() > 0, name
        assert torch.equal(gradient, runs[1][name]), name


@pytest.mark.parametrize("shape", [(32, 20, 24), (31, 9, 11), (5, 7, 13), (1, 6, 6)], ids=str)
def test_height_is_halved_four_times_and_never_to_nothing(shape):
    out = small()(scattered((20, 9), shape=shape))
    assert out.shape == (-(-shape[0] // 16), *shape[1:])
    assert (out.coords[:, 1:] < torch.tensor(out.shape)).all() and out.features.isfinite().all()


def test_rows_come_sorted_by_sample_x_y_z():
    coords = small()(scattered((40, 23), shape=(32, 9, 11))).coords
    keys = [(b, x, y, z) for b, z, y, x in coords.tolist()]
    assert keys == sorted(keys) and len(set(keys)) == len(keys)


def test_further_layers_see_one_cell_of_height():
    backbone = small(**BEV)
    out = backbone(scattered((40, 23), shape=(32, 9, 11)))
    assert out.shape == (1, 9, 11)
    ids = [op.layer_id for i in (1, 2, 3) for op in getattr(backbone, f"linear_bev{i}").blocks]
    assert ids == [34, 35, 36, 37, 38, 39]


def test_operators_are_numbered_as_published():
    backbone = small()
    firsts = [getattr(backbone, f"linear_{i}").encoder[0].blocks[0].layer_id for i in (1, 2, 3, 4)]
    assert [*firsts, backbone.linear_out.blocks[0].layer_id] == [0, 8, 16, 24, 32]
    assert backbone.linear_out.blocks[1].n_layer == 34 and backbone.linear_out.shifted


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("counts", [(0, 0), (1,)], ids=str)
def test_frames_without_a_voxel_or_with_one_pass(counts, training):
    out = small().train(training)(scattered(counts, shape=(32, 9, 11)))
    assert out.batch_size == len(counts) and out.shape == (2, 9, 11) and out.features.isfinite().all()
    assert len(out) == 0 if sum(counts) == 0 else len(out) >= 1


def test_no_generation_keeps_the_columns_of_the_input():
    voxels = scattered((40,), shape=(32, 9, 11))
    columns = {tuple(row) for row in voxels.coords[:, 2:].tolist()}
    still, spread = small(generate_share=0.0)(voxels), small()(voxels)
    assert {tuple(row) for row in still.coords[:, 2:].tolist()} == columns
    assert {tuple(row) for row in spread.coords[:, 2:].tolist()} > columns
    assert len(small(generate_ways=2)(voxels)) < len(spread)


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"voxels must have features \(M, 16\), .* got \(5, 8\)"):
        small()(scattered((5,), channels=8))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"windows": ((8, 5, 5),) * 3}, r"windows must have 4 entries and as many group sizes, got 3 and 4"),
        ({"bev_groups": (16,)}, r"bev_windows must have 0 entries and as many group sizes, got 0 and 1"),
        ({"out_group": 0}, r"group must be a whole number of voxels >= 1, got 0"),
        ({"generate_share": -0.1}, r"generate_share must be a share of the voxels in 0 .. 1, got -0.1"),
        ({"padding": "zero"}, r"padding must be one of \('repeat', 'none'\), got 'zero'"),
    ],
)
def test_configs_that_are_none_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        small_config(**words)
