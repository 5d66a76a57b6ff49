"""Weights into a backbone: the authors' files and ours, of classifiers and of detectors; refusals."""

import pytest
import timm
import torch

pytest.importorskip("mmdet")

from mmdet.registry import MODELS
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn

from linzoo.vision import l2vit, ravlt
from linzoo.vision.detection import LinzooBackbone

SLIM = {"dims": (16, 32, 48, 64), "heads": (1, 2, 3, 4), "depths": (1, 2, 1, 1)}
HEAD_DIMS = (16, 16, 16, 16)


def make(name="ravlt_tiny", **settings) -> LinzooBackbone:
    if name.startswith(("ravlt", "l2vit")):
        settings = {**SLIM, **settings}
    return MODELS.build({"type": "LinzooBackbone", "model_name": name, **settings})


def shaken(model: nn.Module) -> nn.Module:
    """Every tensor away from its initial value, so that a tensor that is not loaded is seen."""
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.2)
    return model.eval()


def official_detector(name: str, model: nn.Module, norms: dict[int, nn.LayerNorm]) -> dict:
    """What the authors' detector would save: backbone with a norm a stage, necks and heads beside it."""
    bare = {k: v for k, v in model.state_dict().items() if not k.startswith(("head.", "neck.", "norm."))}
    state = {f"out_norms.{i}.{k}": v for i, norm in norms.items() for k, v in norm.state_dict().items()}
    if name == "l2vit_tiny":
        theirs = l2vit.to_official({**bare, **state})
    else:
        theirs = ravlt.to_official({**bare, **state}, HEAD_DIMS)
    others = {
        "neck.lateral_convs.0.conv.weight": torch.zeros(2, 2, 1, 1),
        "bbox_head.x.weight": torch.zeros(2),
    }
    return {
        "meta": {"epoch": 12},
        "state_dict": {**{f"backbone.{k}": v for k, v in theirs.items()}, **others},
    }


def stage_maps(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return model.forward_intermediates(x, intermediates_only=True)


@pytest.fixture(params=["ravlt_tiny", "l2vit_tiny"], ids=["ravlt", "l2vit"])
def source(request, tmp_path):
    """A classifier of the family, norms for its four stages, and the files that could hold them."""
    name = request.param
    model = shaken(timm.create_model(name, **SLIM))
    norms = {i: shaken(nn.LayerNorm(c, eps=1e-6)) for i, c in enumerate(SLIM["dims"])}
    weights = model.state_dict()
    family = ravlt if name == "ravlt_tiny" else l2vit
    theirs = ravlt.to_official(weights, HEAD_DIMS) if family is ravlt else l2vit.to_official(weights)
    torch.save({"model": theirs, "epoch": 299}, tmp_path / "official_classifier.pth")
    torch.save({"state_dict": weights}, tmp_path / "our_classifier.pth")
    torch.save(official_detector(name, model, norms), tmp_path / "official_detector.pth")
    return name, model, norms, tmp_path


@pytest.mark.parametrize("file", ["official_classifier", "our_classifier", "official_detector"])
@pytest.mark.parametrize("how", ["pretrained", "init_cfg"])
def test_the_file_of_a_classifier_or_a_detector_fills_the_backbone(file, how, source):
    name, model, norms, folder = source
    path = str(folder / f"{file}.pth")
    given = {"pretrained": path} if how == "pretrained" else {}
    given |= {"init_cfg": {"type": "Pretrained", "checkpoint": path}} if how == "init_cfg" else {}
    backbone = make(name, out_indices=(1, 2, 3), **given).eval()
    x = torch.randn(1, 3, 64, 96)
    untouched = backbone(x)
    backbone.init_weights()
    for index, got in zip((1, 2, 3), backbone(x), strict=True):
        bare = stage_maps(model, x)[index].permute(0, 2, 3, 1)
        norm = norms[index] if file == "official_detector" else nn.LayerNorm(bare.shape[-1])
        norm.eps = backbone.out_norms[str(index)].eps
        assert torch.allclose(got, norm(bare).permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(got, untouched[index - 1])


def test_mmengine_loads_the_authors_detector_by_its_names(source):
    name, model, _, folder = source
    detector = nn.Module()
    detector.backbone = make(name).eval()
    load_checkpoint(detector, str(folder / "official_detector.pth"), map_location="cpu")
    wanted = {k: v for k, v in model.state_dict().items() if not k.startswith(("head.", "neck.", "norm."))}
    loaded = detector.backbone.body.model.state_dict()
    assert wanted.keys() == loaded.keys()
    assert all(torch.equal(wanted[k], loaded[k]) for k in wanted)
    assert not torch.equal(detector.backbone.out_norms["3"].weight, torch.ones(64))


def test_a_detector_of_ours_fills_another_backbone(tmp_path):
    first = shaken(make())
    torch.save(
        {"state_dict": {f"backbone.{k}": v for k, v in first.state_dict().items()}}, tmp_path / "x.pth"
    )
    second = make(pretrained=str(tmp_path / "x.pth"), out_indices=(2, 3))
    second.init_weights()
    assert torch.equal(second.out_norms["2"].weight, first.out_norms["2"].weight)
    assert torch.equal(second.body.model.stages[3].downsample.conv.weight,
                       first.body.model.stages[3].downsample.conv.weight)  # fmt: skip


def test_a_file_of_timm_s_own_model_fills_it(tmp_path):
    model = shaken(timm.create_model("resnet18"))
    torch.save(model.state_dict(), tmp_path / "resnet18.pth")
    backbone = make("resnet18", pretrained=str(tmp_path / "resnet18.pth"), out_indices=(1, 2, 3, 4)).eval()
    backbone.init_weights()
    assert torch.equal(backbone.body.layer4[1].bn2.running_var, model.layer4[1].bn2.running_var)


def test_published_weights_are_loaded_from_where_timm_knows_them(tmp_path):
    model = shaken(timm.create_model("ravlt_tiny", **SLIM))
    torch.save({"model": ravlt.to_official(model.state_dict(), HEAD_DIMS)}, tmp_path / "RAVLT_T.pth")
    overlay = {"file": str(tmp_path / "RAVLT_T.pth")}  # in the place of the hub
    backbone = make(pretrained=True, pretrained_cfg_overlay=overlay)
    backbone.init_weights()
    assert torch.equal(backbone.body.model.stem.conv0.weight, model.stem.conv0.weight)


def test_the_weights_outlast_the_initialisation_of_the_whole_detector(tmp_path):
    from mmengine.model import BaseModule

    class Detector(BaseModule):
        def __init__(self, backbone):
            super().__init__()
            self.backbone = backbone

    model = shaken(timm.create_model("ravlt_tiny", **SLIM))
    torch.save(model.state_dict(), tmp_path / "x.pth")
    detector = Detector(make(pretrained=str(tmp_path / "x.pth")))
    detector.init_weights()
    detector.init_weights()
    assert torch.equal(detector.backbone.body.model.stem.conv0.weight, model.stem.conv0.weight)


# refusals


def refused(tmp_path, content, name="ravlt_tiny", **settings) -> str:
    path = tmp_path / "x.pth"
    torch.save(content, path)
    backbone = make(name, pretrained=str(path), **settings)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(ValueError) as error:
        backbone.init_weights()
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    return str(error.value)


def test_another_size_is_refused_with_the_shapes(tmp_path):
    other = timm.create_model("ravlt_tiny", **{**SLIM, "dims": (32, 32, 48, 64)})
    assert "stem.conv0.bias must have shape (8,), got (16,)" in refused(tmp_path, other.state_dict())


def test_our_detector_of_another_size_is_refused_with_the_shapes(tmp_path):
    other = make(dims=(16, 32, 48, 96), heads=(1, 2, 3, 4))
    message = refused(tmp_path, {"state_dict": {f"backbone.{k}": v for k, v in other.state_dict().items()}})
    assert "does not fit ravlt_tiny" in message and "(96," in message and "must be (64," in message


def test_another_depth_is_refused_with_the_missing_names(tmp_path):
    shallow = timm.create_model("ravlt_tiny", **{**SLIM, "depths": (1, 1, 1, 1)})
    assert "stages.1.blocks.1" in refused(tmp_path, shallow.state_dict())


def test_another_model_s_file_is_refused(tmp_path):
    state = timm.create_model("resnet18").state_dict()
    assert "another model's file?" in refused(tmp_path, state)
    state = timm.create_model("convnext_atto").state_dict()
    assert "at least 10 of 60 are not in it (first: conv1.weight)" in refused(
        tmp_path, state, "resnet18", out_indices=(1, 2)
    )
    state = timm.create_model("resnet18").state_dict()
    del state["layer2.0.conv1.weight"]
    assert "at least 1 of 60 are not in it (first: layer2.0.conv1.weight)" in refused(
        tmp_path, state, "resnet18", out_indices=(1, 2)
    )
    state = timm.create_model("resnet18").state_dict()
    state["conv1.weight"] = state["conv1.weight"][:8]
    assert "cannot be loaded into resnet18" in refused(tmp_path, state, "resnet18", out_indices=(1, 2))


def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = timm.create_model("ravlt_tiny", **SLIM).state_dict()
    state["stages.1.blocks.0.norm1.weight"][3] = float("nan")
    assert "must be finite" in refused(tmp_path, state)


def test_a_file_that_is_not_there_or_damaged_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        make(pretrained=str(tmp_path / "nowhere.pth")).init_weights()
    (tmp_path / "damaged.pth").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(ValueError, match=r"damaged\.pth"):
        make(pretrained=str(tmp_path / "damaged.pth")).init_weights()
