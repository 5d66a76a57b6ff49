"""The published forms: parameter counts, names, shapes, grids; and official files."""

import dataclasses

import pytest
import torch

from linzoo.pointcloud.lion import (
    FORMS,
    PUBLISHED,
    VARIANTS,
    LionBackbone,
    from_official,
    load_official,
    to_official,
)

from ..parity_fill import figures, fill
from .lion_cases import scattered, small_config

SHAPES = {name: figure for name, figure in figures("pointcloud_checkpoint_shapes").items() if "lion" in name}
OURS = {"Mamba": "mamba", "RetNet": "retnet", "RWKV": "rwkv", "xLSTM": "mlstm", "TTT": "ttt"}


def of_meta(config):
    with torch.device("meta"):
        return LionBackbone(config)


def shapes_of(module):
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def widened(name):
    _, operator, channels = name.split("_")
    form = "kitti" if channels == "64" else "nuscenes"
    return VARIANTS[f"lion_{OURS[operator]}_{form}"]


@pytest.mark.parametrize("name", SHAPES)
def test_names_shapes_and_counts_are_the_authors(name):
    figure, backbone = SHAPES[name], of_meta(widened(name))
    shapes = shapes_of(backbone)
    assert sum(p.numel() for p in backbone.parameters()) == figure["params"]
    assert len(shapes) == figure["n_tensors"]
    if "state_dict" in figure:
        assert shapes == figure["state_dict"]
    first = ("linear_1.encoder.0.", "linear_1.downsample_list.0.", "linear_1.pos_emb_list.0.")
    parts = (*first, "linear_1.decoder_norm.0.", "dow1.", "linear_out.")
    recorded = figure["linear_out_and_first"]
    assert recorded == {k: v for k, v in shapes.items() if k.startswith(parts)}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_of_its_form_and_operator(name):
    config = VARIANTS[name]
    _, operator, form = name.split("_", 2)
    words = {"heads": 4} if operator == "rwkv" else {}
    assert config == dataclasses.replace(FORMS[form], operator=operator, operator_words=words)


@pytest.mark.parametrize("form", FORMS)
def test_grids_are_cut_as_published(form):
    shapes = {
        "waymo": (32, 472, 472),
        "waymo_large": (32, 472, 472),
        "nuscenes": (32, 360, 360),
        "once": (32, 376, 376),
        "kitti": (32, 400, 352),
        "argoverse": (32, 1024, 1024),
    }
    assert FORMS[form].grid.shape == shapes[form]


def test_published_variants_exist_and_widths_are_theirs():
    assert set(PUBLISHED) <= set(VARIANTS) and len(PUBLISHED) == len(set(PUBLISHED)) == 18
    assert {form: config.channels for form, config in FORMS.items()} == {
        "waymo": 64,
        "waymo_large": 128,
        "nuscenes": 128,
        "once": 128,
        "kitti": 64,
        "argoverse": 128,
    }


def test_argoverse_has_three_layers_more_and_the_rest_as_nuscenes():
    more, plain = (shapes_of(of_meta(VARIANTS[f"lion_retnet_{form}"])) for form in ("argoverse", "nuscenes"))
    extra = {name.split(".")[0] for name in more if name not in plain}
    assert extra == {"dow_out", "linear_bev1", "linear_bev2", "linear_bev3"}
    assert {name: more[name] for name in plain} == plain
    config = VARIANTS["lion_retnet_argoverse"]
    assert sum(p.numel() for p in of_meta(config).parameters()) == 15_118_848
    assert config.bev_windows == ((1, 25, 25), (1, 37, 37), (1, 51, 51))
    assert config.bev_groups == (512, 1024, 2048)


def test_a_published_form_runs():
    """One that is small enough here; windows and groups as published."""
    backbone = LionBackbone(VARIANTS["lion_retnet_kitti"]).eval()
    with torch.no_grad():
        out = backbone(scattered((60, 20), shape=(32, 40, 36), channels=64, dtype=torch.float32))
    assert out.shape == (2, 40, 36) and out.features.isfinite().all()


def small(**words):
    torch.manual_seed(1)
    return LionBackbone(small_config(**words))


def official(backbone):
    """A file of the authors': a whole detector's tensors, and what training left beside them."""
    state = fill({f"backbone_3d.{name}": shape for name, shape in shapes_of(backbone).items()})
    others = {"vfe.pfn_layers.0.linear.weight": torch.zeros(32, 10), "global_step": torch.zeros(1)}
    return {"epoch": 36, "it": 7, "model_state": {**others, **state}}


def test_official_files_load_by_name():
    backbone = small()
    checkpoint = official(backbone)
    load_official(backbone, checkpoint)
    for name, tensor in backbone.state_dict().items():
        wanted = checkpoint["model_state"][f"backbone_3d.{name}"].to(tensor.dtype)
        assert torch.equal(tensor, wanted), name


def test_files_go_back_to_the_authors_names():
    backbone = small()
    written = to_official(backbone)
    assert set(written["model_state"]) == {f"backbone_3d.{name}" for name in backbone.state_dict()}
    again = from_official(written)
    assert all(torch.equal(again[name], tensor) for name, tensor in backbone.state_dict().items())
    assert set(from_official(written["model_state"])) == set(again)  # without the dict around it, too


def broken(checkpoint, change):
    state = dict(checkpoint["model_state"])
    if change == "missing":
        del state["backbone_3d.dow1.norm.bias"]
    elif change == "foreign":
        state["backbone_3d.dow5.norm.bias"] = torch.zeros(16)
    elif change == "layout":  # of spconv 1
        name = "backbone_3d.dow1.sub_conv.0.weight"
        state[name] = state[name].permute(1, 2, 3, 4, 0)[..., :8]
    else:
        state = {name: t for name, t in state.items() if not name.startswith("backbone_3d.")}
    return {"model_state": state}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"missing: dow1.norm.bias; not its own: none"),
        ("foreign", r"missing: none; not its own: dow5.norm.bias"),
        ("layout", r"must have dow1.sub_conv.0.weight of shape \(16, 3, 3, 3, 16\), got \(3, 3, 3, 16, 8\)"),
        ("other", r"must have tensors named backbone_3d..*, got vfe.pfn_layers.0.linear.weight"),
    ],
)
def test_files_that_do_not_fit_are_refused_before_anything_changes(change, message):
    backbone = small()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_official(backbone, broken(official(backbone), change))
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
