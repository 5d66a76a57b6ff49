"""Files of the authors' form fill whole detectors: every tensor by its name, the rest passed over."""

import re

import numpy as np
import pytest
import torch

from linzoo.pointcloud import create_detector, list_detectors
from linzoo.pointcloud.checkpoints import check_fit, load_checkpoint, part_of, to_official, weights_of
from linzoo.pointcloud.lion.variants import PUBLISHED
from linzoo.pointcloud.scatterformer import VARIANTS as SCATTERFORMER

FORMS = sorted(name for name in (*PUBLISHED, *SCATTERFORMER) if name in list_detectors())
STAND_INS = {  # small, with each of the heads and necks that the published forms have
    "lion_retnet_small": {"groups": (32,) * 4, "out_group": 32},
    "scatterformer_small": {"layers": 1},
}
CENTER = (
    r"shared_conv\.[01]\.\w+",
    r"heads_list\.0\.(center|center_z|dim|rot|iou|hm)\.(0\.[01]|1)\.\w+",
)
HEADS = {  # the names of each data set's head in the authors' files
    "waymo": CENTER,
    "once": CENTER,
    "nuscenes": (
        r"(shared_conv|class_encoding)\.\w+",
        r"heatmap_head\.(0\.(conv|bn)|1)\.\w+",
        r"decoder\.(self_attn|multihead_attn)\.(in_proj_weight|in_proj_bias|out_proj\.\w+)",
        r"decoder\.(linear[12]|norm[123])\.\w+",
        r"decoder\.(self|cross)_posembed\.position_embedding_head\.[013]\.\w+",
        r"prediction_head\.(center|height|dim|rot|vel|iou|heatmap)\.(0\.[01]|1)\.\w+",
    ),
    "kitti": (r"conv_(cls|box|dir_cls)\.(weight|bias)",),
}
ENCODER = r"pfn_layers\.[01]\.(linear\.weight|norm\.\w+)"
PARTS = ("vfe.", "backbone_3d.", "backbone_2d.", "dense_head.")


def official(detector):
    """What the authors' training saves: weights and a counter, the optimiser's moments, numpy numbers."""
    checkpoint = to_official(detector)
    checkpoint["model_state"]["global_step"] = torch.tensor([1234])
    moments = [{"step": np.int64(5), "exp_avg": torch.zeros(2), "lr": np.float64(3e-3)}]
    return {
        **checkpoint,
        "epoch": np.int64(24),
        "it": np.int64(1234),
        "accumulated_iter": 1234,
        "optimizer_state": {"state": dict(enumerate(moments)), "param_groups": [{"betas": (0.9, 0.99)}]},
        "version": "pcdet+0.6.0",
        "best": np.float32(0.7),
        "history": np.arange(3.0),
    }


@pytest.mark.parametrize("name", STAND_INS)
def test_a_whole_file_fills_a_detector_by_name_and_goes_back(name, tmp_path):
    torch.manual_seed(0)
    source = create_detector(name, **STAND_INS[name])
    for tensor in source.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else torch.tensor(7))
    torch.save(official(source), tmp_path / "checkpoint_epoch_24.pth")
    loaded = create_detector(name, checkpoint=tmp_path / "checkpoint_epoch_24.pth", **STAND_INS[name])
    assert to_official(loaded)["model_state"].keys() == source.state_dict().keys()
    for key, tensor in to_official(loaded)["model_state"].items():
        assert torch.equal(tensor, source.state_dict()[key]), key


@pytest.mark.parametrize("name", FORMS)
def test_every_published_form_has_the_names_of_the_authors_files(name):
    """On the meta device: no weights are made. Names of backbones and necks: beside those."""
    with torch.device("meta"):
        detector = create_detector(name)
        checkpoint = official(detector)
    tensors = weights_of(checkpoint)
    check_fit(detector, tensors, name)
    assert {f"{key.split('.')[0]}." for key in tensors} == set(PARTS)  # and no global_step
    assert_named(part_of(tensors, "vfe"), (ENCODER,))
    assert_named(part_of(tensors, "dense_head"), HEADS[name.removesuffix("_large").split("_")[-1]])


def assert_named(names, patterns):
    """Every name is of a pattern, and every pattern has one."""
    assert not [name for name in names if not any(re.fullmatch(pattern, name) for pattern in patterns)]
    assert not [pattern for pattern in patterns if not any(re.fullmatch(pattern, name) for name in names)]


@pytest.mark.parametrize("lost", PARTS)
def test_a_file_without_a_part_changes_nothing(lost, tmp_path):
    name = "scatterformer_small"
    checkpoint = official(create_detector(name, layers=1))
    state = checkpoint["model_state"]
    checkpoint["model_state"] = {key: value for key, value in state.items() if not key.startswith(lost)}
    torch.save(checkpoint, tmp_path / "part.pth")
    target = create_detector(name, layers=1)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(ValueError, match=f"missing: {lost[:-1]}"):
        load_checkpoint(target, tmp_path / "part.pth")
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())


def test_a_form_of_real_size_comes_back_from_its_file(tmp_path):
    name = "lion_ttt_kitti"
    source, path = create_detector(name), tmp_path / "kitti.pth"
    torch.save(official(source), path)
    loaded = create_detector(name, checkpoint=path)
    state = loaded.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in source.state_dict().items())
