"""configs/detection: every file builds, and holds what its authors set."""

import shutil
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import timm
import torch

pytest.importorskip("mmdet.registry", reason="needs linzoo[detection]")

import linzoo.vision.detection  # noqa: F401  before mmdet's models are imported

from mmengine.config import Config  # isort: skip
from mmdet.registry import MODELS, PARAM_SCHEDULERS  # isort: skip
from mmdet.utils import register_all_modules  # isort: skip
from mmengine.optim import build_optim_wrapper  # isort: skip

from ..sampling import sampled
from .settings import DETECTORS, our_settings, published_settings

FOLDER = Path(__file__).parents[2] / "configs" / "detection"
SETTINGS = {s.name: s for s in (*published_settings(), *our_settings())}
NAMES = sorted(SETTINGS)
SMALLEST = sorted({(s.detector, s.family, s.epochs): s.name for s in reversed(SETTINGS.values())}.values())


@pytest.fixture(autouse=True, scope="module")
def _scope():
    register_all_modules(init_default_scope=True)


@cache
def config_of(name: str) -> Config:
    """As read from the file; not to be changed."""
    return Config.fromfile(FOLDER / f"{name}.py")


@cache
def detector_of(name: str) -> torch.nn.Module:
    """Built without memory."""
    if not timm.is_model(SETTINGS[name].model):
        pytest.skip(f"{SETTINGS[name].model} is not registered")
    with torch.device("meta"):
        return MODELS.build(deepcopy(config_of(name).model))  # building changes it


def test_there_is_one_file_for_every_setting_and_no_other():
    assert sorted(f.stem for f in FOLDER.glob("*.py")) == NAMES
    assert len(NAMES) == 48


@pytest.mark.parametrize("name", NAMES)
def test_a_config_holds_the_settings_of_its_authors(name):
    config, want = config_of(name), SETTINGS[name]
    backbone, wrapper = config.model.backbone, config.optim_wrapper
    assert config.model.type == DETECTORS[want.detector]
    assert (backbone.type, backbone.model_name) == ("LinzooBackbone", want.model)
    assert backbone.get("drop_path_rate", 0.0) == want.drop_path
    assert backbone.get("out_norms", "family") == (want.out_norms or "family")
    assert tuple(config.model.neck.in_channels) == want.widths
    assert not backbone.get("norm_eval", False) and backbone.get("frozen_stages", -1) == -1
    assert dict(wrapper.optimizer) == {
        "type": "AdamW", "lr": want.rate, "betas": (0.9, 0.999), "weight_decay": want.decay,
    }  # fmt: skip
    assert wrapper.get("clip_grad") is None
    assert config.train_dataloader.batch_size == want.pictures
    assert dict(config.auto_scale_lr) == {"enable": False, "base_batch_size": 8 * want.pictures}
    assert config.custom_imports.imports == ["linzoo.vision.detection"]


@pytest.mark.parametrize("name", NAMES)
def test_mixed_precision_is_that_of_the_authors(name):
    wrapper, amp = config_of(name).optim_wrapper, SETTINGS[name].amp
    assert wrapper.type == ("OptimWrapper" if amp is None else "AmpOptimWrapper")
    if amp is not None:
        assert wrapper.dtype == "float16"
        assert type(wrapper.get("loss_scale", "dynamic")) is type(amp)  # mmengine takes 512.0, not 512
        assert wrapper.get("loss_scale", "dynamic") == amp


@pytest.mark.parametrize("name", NAMES)
def test_the_rate_warms_up_over_500_iterations_and_falls_twice(name):
    config, epochs = config_of(name), SETTINGS[name].epochs
    assert config.train_cfg.max_epochs == epochs
    (weight,) = torch.nn.Linear(1, 1, bias=False).parameters()
    optimizer = torch.optim.AdamW([weight], lr=1.0)
    warmup, steps = (
        PARAM_SCHEDULERS.build({**scheduler, "optimizer": optimizer}) for scheduler in config.param_scheduler
    )
    rates = []
    for _ in range(502):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        warmup.step()
    assert rates[0] == pytest.approx(1e-3) and rates[250] == pytest.approx(0.5, abs=2e-3)
    assert rates[498] < 1 and rates[500] == rates[501] == pytest.approx(1)
    by_epoch = []
    for _ in range(epochs):
        by_epoch.append(optimizer.param_groups[0]["lr"])
        steps.step()
    first, second = {12: (8, 11), 36: (27, 33)}[epochs]
    assert by_epoch == pytest.approx([1] * first + [0.1] * (second - first) + [0.01] * (epochs - second))


@pytest.mark.parametrize("name", sampled(NAMES, SMALLEST))
def test_only_the_parameters_that_the_authors_spare_have_no_weight_decay(name):
    model, want = detector_of(name), SETTINGS[name]
    wrapper = dict(config_of(name).optim_wrapper)
    wrapper = {k: v for k, v in wrapper.items() if k not in ("dtype", "loss_scale")} | {
        "type": "OptimWrapper"
    }
    groups = build_optim_wrapper(model, wrapper).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    norms = {
        id(p)
        for module in model.modules()
        if "Norm" in type(module).__name__
        for p in module.parameters(recurse=False)
    }
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        spared = want.undecayed and (id(parameter) in norms or "norm" in key)
        if want.undecayed == "norm but stem" and "stem.norm" in key:
            spared = False
        assert decay[id(parameter)] == (0 if spared else want.decay), key
    assert len(norms) > 20


@pytest.mark.parametrize("name", sampled(NAMES, SMALLEST))
def test_the_heads_sit_at_the_strides_of_the_pyramid(name):
    model, config = detector_of(name), config_of(name).model
    height, width = 384, 256
    with torch.device("meta"), torch.no_grad():
        maps = model.backbone.eval()(torch.empty(1, 3, height, width))
        used = [y.shape[1] for y in maps][config.neck.get("start_level", 0) :]
        levels = model.neck(maps)
    assert tuple(used) == SETTINGS[name].widths[-len(used) :]
    head = config.rpn_head if "rpn_head" in config else config.bbox_head
    strides = head.anchor_generator.strides
    assert [(height // y.shape[2], width // y.shape[3]) for y in levels] == [(s, s) for s in strides]
    assert {y.shape[1] for y in levels} == {256}
    if "roi_head" in config:
        assert config.roi_head.bbox_roi_extractor.featmap_strides == strides[:4]


@pytest.mark.parametrize("name", sampled(NAMES, SMALLEST))
def test_an_output_of_the_backbone_has_the_norm_of_the_authors(name):
    backbone, eps = detector_of(name).backbone, SETTINGS[name].out_norms
    assert [norm.eps for norm in backbone.out_norms.values()] == (
        [] if eps is None else [eps] * len(backbone.out_indices)
    )


@pytest.mark.parametrize("name", SMALLEST)
def test_parameters_without_a_gradient_are_announced(name):
    """Distributed training stops at them, unless the config says that there are some."""
    model = detector_of(name).train()
    with torch.device("meta"):
        levels = model.neck(model.backbone(torch.empty(2, 3, 96, 64)))
    parts = [*model.backbone.named_parameters(), *model.neck.named_parameters()]
    trained = {key: p for key, p in parts if p.requires_grad}
    found = torch.autograd.grad(sum(y.sum() for y in levels), list(trained.values()), allow_unused=True)
    idle = {key.partition(".")[0] for key, g in zip(trained, found, strict=True) if g is None}
    assert idle == ({"out_norms"} if config_of(name).get("find_unused_parameters", False) else set())


@pytest.mark.parametrize("name", ["retinanet_ravlt-large_fpn_1x_coco", "mask-rcnn_mala-tiny_fpn_1x_coco"])
def test_blocks_drop_their_branches_at_the_rate_of_the_config(name):
    stages = detector_of(name).backbone.body.model.stages
    rates = [block.drop_path.drop_prob for stage in stages for block in stage.blocks]
    assert rates[0] == 0 and rates[-1] == pytest.approx(SETTINGS[name].drop_path)


@pytest.mark.parametrize(
    "name",
    ["retinanet_ravlt-tiny_fpn_1x_coco", "cascade-mask-rcnn_mala-large_fpn_4conv1fc-giou_ms-crop-3x_coco"],
)
def test_a_config_means_the_same_in_another_folder(name, tmp_path):
    """As in an installed wheel: nothing points out of the folder but the path to mmdetection's own files."""
    shutil.copytree(FOLDER, tmp_path / "elsewhere")
    elsewhere = Config.fromfile(tmp_path / "elsewhere" / f"{name}.py")
    assert elsewhere.to_dict() == config_of(name).to_dict()


def test_a_base_config_that_mmdet_does_not_have_is_refused():
    from linzoo.configs.mmdet_bases import mmdet_base

    assert Path(mmdet_base("default_runtime.py")).is_file()
    with pytest.raises(FileNotFoundError, match=r"got 'models/retinanet\.py'.*models/retinanet_r50_fpn\.py"):
        mmdet_base("models/retinanet.py")
