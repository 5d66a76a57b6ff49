"""LinzooBackbone: maps, norms on them, frozen parts, statistics, checkpointing, refusals."""

import pytest
import timm
import torch
from torch import nn

pytest.importorskip("mmdet")

from mmdet.registry import MODELS

from linzoo.vision.detection import LinzooBackbone

SLIM = {"dims": (16, 32, 48, 64), "heads": (1, 2, 3, 4), "depths": (1, 1, 1, 1)}


def make(name="ravlt_tiny", **settings) -> LinzooBackbone:
    if name.startswith(("ravlt", "mala", "nalaformer", "l2vit")):
        settings = {**SLIM, **settings}
    return MODELS.build({"type": "LinzooBackbone", "model_name": name, **settings})


def image(height=64, width=96, channels=3):
    return torch.randn(2, channels, height, width)


# maps


@pytest.mark.parametrize(
    ("name", "settings", "strides"),
    [
        ("ravlt_tiny", {}, (4, 8, 16, 32)),
        ("l2vit_tiny", {"out_indices": (1, 2, 3)}, (8, 16, 32)),
        ("nalaformer_tiny", {"out_indices": [0, 2]}, (4, 16)),
        ("efficientvim_m1", {}, (16, 32, 64)),
        ("resnet18", {"out_indices": (1, 2, 3, 4)}, (4, 8, 16, 32)),
        ("convnext_atto", {}, (4, 8, 16, 32)),
        ("swin_tiny_patch4_window7_224", {"strict_img_size": False, "depths": (1, 1, 1, 1)}, (4, 8, 16, 32)),
        ("vit_tiny_patch16_224", {"out_indices": (1,), "depth": 2, "dynamic_img_size": True}, (16,)),
    ],
    ids=["ravlt", "l2vit", "nalaformer", "efficientvim", "resnet", "convnext", "swin-nhwc", "vit"],
)
def test_maps_are_nchw_of_the_channels_and_strides_it_names(name, settings, strides):
    backbone = make(name, **settings).eval()
    maps = backbone(image(96, 128))
    assert isinstance(maps, tuple)
    assert backbone.out_strides == strides
    assert [tuple(y.shape) for y in maps] == [
        (2, c, -(-96 // s), -(-128 // s)) for c, s in zip(backbone.out_channels, strides, strict=True)
    ]
    assert all(y.is_contiguous() for y in maps)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (37, 53), (65, 33)])
def test_any_image_size_runs(height, width):
    maps = make().eval()(image(height, width))
    assert [y.shape[2:] for y in maps] == [(-(-height // s), -(-width // s)) for s in (4, 8, 16, 32)]


def test_arguments_of_the_model_reach_it():
    backbone = make(mixers="linear", drop_path_rate=0.3, in_chans=4)
    assert set(backbone.body.model.mixers) == {"rala"}
    assert backbone.body.model.stages[3].blocks[0].drop_path.drop_prob == pytest.approx(0.3)
    assert len(backbone.eval()(image(channels=4))) == 4


# norms on the maps


@pytest.mark.parametrize(
    ("name", "eps"),
    [("ravlt_tiny", 1e-6), ("mala_tiny", 1e-6), ("l2vit_tiny", 1e-5), ("nalaformer_tiny", None)],
    ids=["ravlt", "mala", "l2vit", "nalaformer"],
)
def test_a_family_has_the_norms_that_its_detectors_were_published_with(name, eps):
    norms = make(name, out_indices=(1, 3)).out_norms
    expected = {} if eps is None else {"1": eps, "3": eps}
    assert {key: norm.eps for key, norm in norms.items()} == expected


def test_the_norm_is_over_channels_and_the_next_stage_gets_the_map_without_it():
    backbone, plain = make().eval(), make(out_norms=None).eval()
    for norm in backbone.out_norms.values():
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    plain.body.load_state_dict(backbone.body.state_dict())
    x = image()
    for index, (normed, bare) in enumerate(zip(backbone(x), plain(x), strict=True)):
        norm = backbone.out_norms[str(index)]
        centred = bare - bare.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        expected = scaled * norm.weight[:, None, None] + norm.bias[:, None, None]
        assert torch.allclose(normed, expected, atol=1e-5)


def test_norms_can_be_asked_for_and_left_out():
    assert {n.eps for n in make("resnet18", out_indices=(1, 2), out_norms=1e-4).out_norms.values()} == {1e-4}
    assert len(make(out_norms=None).out_norms) == 0


# what stays as it is


@pytest.mark.parametrize("name", ["ravlt_tiny", "resnet18", "convnext_atto"])
@pytest.mark.parametrize("stages", [-1, 0, 1, 2])
def test_frozen_stages_freezes_the_stem_and_so_many_stages(name, stages):
    backbone = make(name, frozen_stages=stages, out_indices=(1, 2, 3, 4) if name == "resnet18" else None)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1.0)
    sum(y.square().mean() for y in backbone.train()(image())).backward()
    optimizer.step()
    changed = {k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}

    stage_marks = {
        "ravlt_tiny": "body.model.stages.",
        "resnet18": "body.layer",
        "convnext_atto": "body.stages_",
    }
    mark, first = stage_marks[name], 1 if name == "resnet18" else 0

    def moved(prefix: str) -> bool:
        return any(key.startswith(prefix) for key in changed)

    stem = {"ravlt_tiny": "body.model.stem.", "resnet18": "body.conv1.", "convnext_atto": "body.stem_"}[name]
    assert moved(stem) == (stages < 0)
    assert [moved(f"{mark}{first + i}") for i in range(4)] == [i >= max(stages, 0) for i in range(4)]


def test_frozen_stages_keep_their_statistics_and_drop_nothing():
    backbone = make(frozen_stages=2, drop_path_rate=0.5).train()
    body = backbone.body.model
    assert not any(m.training for m in body.stem.modules())
    assert [any(m.training for m in stage.modules()) for stage in body.stages] == [False, False, True, True]
    assert backbone.training and body.training


class Synchronised(nn.SyncBatchNorm):
    """Stands for what conversion puts in; its forward needs several processes."""


@pytest.mark.parametrize("norm_eval", [False, True])
def test_norm_eval_is_about_every_kind_of_batch_norm(norm_eval):
    backbone = make(norm_eval=norm_eval)
    backbone.body.model.stem.norm1 = Synchronised(16)
    backbone.train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert {type(m) for m in norms} == {nn.BatchNorm2d, Synchronised}
    assert all(m.training is not norm_eval for m in norms)
    assert backbone.body.model.stages[0].blocks[0].norm1.training  # LayerNorms are left alone


def test_checkpointing_changes_no_gradient_and_keeps_less():
    plain, checkpointed = make(drop_path_rate=0.0), make(drop_path_rate=0.0, with_cp=True)
    checkpointed.load_state_dict(plain.state_dict())
    x = image()
    kept = []
    for backbone in (plain, checkpointed):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t
        ):
            loss = sum(y.square().mean() for y in backbone.train()(x))
        loss.backward()
        kept.append(sum(sizes))
    assert kept[1] < 0.7 * kept[0]
    for (key, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-6), key


def test_the_list_of_modules_of_timm_is_checkpointed_too():
    assert make("resnet18", with_cp=True, out_indices=(1, 2)).body.grad_checkpointing


# refusals


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"name": "ravlt_tinny"}, ValueError, "did you mean ravlt_tiny"),
        ({"name": "resnet_18"}, ValueError, "did you mean .*resnet18"),
        ({"mixer": "linear"}, TypeError, "ravlt_tiny has no argument 'mixer'; did you mean mixers"),
        ({"frozen_stage": 1}, TypeError, "did you mean frozen_stages"),
        ({"name": "resnet18", "drop_paths": 0.1}, TypeError, "resnet18 has no argument 'drop_paths'"),
        ({"out_indices": (0, 4)}, ValueError, r"among the 4 stages of ravlt_tiny, got \(0, 4\)"),
        ({"frozen_stages": 5}, ValueError, "up to 4 stages, got 5"),
        ({"frozen_stages": -2}, ValueError, "frozen_stages must be"),
        ({"frozen_stages": True}, ValueError, "frozen_stages must be"),
        ({"out_norms": "layer"}, ValueError, "out_norms must be 'family', None or an eps above 0"),
        ({"out_norms": 0.0}, ValueError, "out_norms must be"),
        ({"pretrained": 3}, ValueError, "pretrained must be True, False or a file"),
        (
            {"pretrained": "a.pth", "init_cfg": {"type": "Pretrained", "checkpoint": "b.pth"}},
            ValueError,
            "named once",
        ),
        ({"init_cfg": {"type": "Pretrained"}}, ValueError, "must name a checkpoint, got None"),
        ({"drop_path_rate": 1.5}, ValueError, "drop_path_rate"),
    ],
    ids=[
        "name", "timm-name", "argument", "own-argument", "timm-argument", "indices", "many-frozen",
        "few-frozen", "bool-frozen", "norm-name", "norm-zero", "pretrained", "two-sources",
        "no-source", "rate",
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(settings, error, message):
    with pytest.raises(error, match=message):
        make(**settings)


def test_a_model_without_published_weights_is_not_asked_for_them():
    with pytest.raises(
        ValueError, match=r"pretrained must be a file or False: no weights .* nalaformer_tiny"
    ):
        make("nalaformer_tiny", pretrained=True)
    assert timm.get_pretrained_cfg("ravlt_tiny").has_weights
    assert make(pretrained=True).pretrained is True  # nothing is fetched before init_weights
