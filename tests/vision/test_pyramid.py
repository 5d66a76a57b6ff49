"""What the pyramid adds to the published models: a mixer per stage; and how it starts and is grouped."""

import itertools

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from linzoo.vision import pyramid
from linzoo.vision.layers import make_mixer, mixer_names, register_mixer
from linzoo.vision.mala.mixer import MagnitudeAwareMixer
from linzoo.vision.nalaformer.mixer import NormAwareMixer, NormedGateSoftmaxMixer
from linzoo.vision.ravlt.mixer import RankAugmentedMixer

FAMILIES = ("ravlt_tiny", "mala_tiny", "nalaformer_xt")
SMALL = {
    "dims": (16, 32, 32, 64),
    "depths": (1, 2, 1, 1),
    "heads": (1, 2, 2, 2),
    "neck_dim": 32,
    "num_classes": 5,
}


def small(name="ravlt_tiny", **kwargs):
    return timm.create_model(name, **{**SMALL, **kwargs})


def mixers_of(model):
    return [type(stage.blocks[0].attn) for stage in model.stages]


def test_published_models_mix_linearly_at_strides_4_and_8_only():
    softmax = make_mixer("softmax", 8, 2).__class__
    assert mixers_of(small("ravlt_tiny")) == [RankAugmentedMixer] * 2 + [softmax] * 2
    assert mixers_of(small("mala_tiny")) == [MagnitudeAwareMixer] * 2 + [softmax] * 2
    assert mixers_of(small("nalaformer_xt")) == [NormAwareMixer] * 2 + [NormedGateSoftmaxMixer] * 2


@pytest.mark.parametrize("name", FAMILIES)
def test_linear_everywhere_and_softmax_everywhere_share_their_weights(name):
    linear, softmax = small(name, mixers=("linear",) * 4).eval(), small(name, mixers="softmax").eval()
    assert len(set(mixers_of(linear))) == 1 and len(set(mixers_of(softmax))) == 1
    softmax.load_state_dict(linear.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        a, b = linear(x), softmax(x)
    assert a.isfinite().all() and b.isfinite().all()
    assert not torch.allclose(a, b)


def test_any_registered_mixer_can_serve_any_stage():
    for names in itertools.combinations(mixer_names(), min(4, len(mixer_names()))):
        model = small(mixers=names)
        assert model(torch.randn(2, 3, 64, 64)).isfinite().all()


def test_a_new_mixer_needs_only_its_registration():
    @register_mixer("test_mean")
    class Mean(nn.Module):
        uses_rope = False

        def __init__(self, dim, heads, *, device=None, dtype=None):
            super().__init__()

        def forward(self, x, rope):
            assert rope is None
            return x.mean((1, 2), keepdim=True).expand_as(x)

    try:
        model = small(
            mixers=("test_mean", "linear", "test_mean", "softmax"), heads=(3, 2, 3, 2), dims=(18, 32, 33, 64)
        )
        assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)
        with pytest.raises(ValueError, match="name 'test_mean' is already taken by"):
            register_mixer("test_mean")(nn.Identity)
    finally:
        from linzoo.vision.layers import mixers

        del mixers._MIXERS["test_mean"]


def test_an_unknown_mixer_gets_the_nearest_name_suggested():
    with pytest.raises(ValueError, match="got 'rla'; did you mean 'rala'"):
        small(mixers=("rla", "linear", "softmax", "softmax"))
    with pytest.raises(ValueError, match="got 'sofmax'; did you mean 'softmax'"):
        small(mixers="sofmax")
    with pytest.raises(ValueError, match="got 'nalla'; did you mean 'nala'"):
        make_mixer("nalla", 8, 2)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"mixers": ("linear",) * 3}, r"mixers: must be one name or one a stage \(4\), got"),
        ({"heads": (1, 2, 3, 4)}, r"heads must divide dim=32, got 3"),
        ({"heads": (1, 2, 0, 4)}, r"heads\[2\] must be an integer of at least 1, got 0"),
        ({"heads": (8, 2, 2, 4)}, r"dims / heads must be a multiple of 4 with rotary mixers, got 16 / 8"),
        ({"depths": (1, 1, 1)}, r"depths must have one entry a stage \(4\), got \(1, 1, 1\)"),
        ({"layer_scale": (1.0,)}, r"layer_scale must have one entry a stage \(4\), got \(1.0,\)"),
        ({"linear_init": "xavier"}, r"linear_init must be 'trunc_normal' or 'default', got 'xavier'"),
        ({"global_pool": ""}, r"global_pool must not be empty with a classifier \(num_classes=5\)"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_sizes_that_do_not_fit_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        small(**kwargs)


def test_a_misspelt_argument_is_a_type_error():
    with pytest.raises(TypeError, match="mixer_names"):
        small(mixer_names="linear")


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 4, 64, 64), (1, 3, 0, 64), (1, 3, 64, 0)], ids=str)
def test_what_is_no_image_is_refused(shape):
    model = small()
    with pytest.raises(ValueError, match=r"Pyramid: image must be \(B, 3, H, W\) with B, H, W > 0, got"):
        model(torch.zeros(shape))
    with pytest.raises(ValueError, match="image must be"):
        model.forward_intermediates(torch.zeros(shape))


# --- how it starts


def test_ravlt_and_mala_start_from_a_normal_of_std_0_02_and_zero_biases():
    for name in ("ravlt_tiny", "mala_tiny"):
        model = small(name)
        for key, module in model.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                assert (module.bias == 0).all(), key
                if module.weight.numel() >= 512:
                    assert abs(module.weight.std().item() / 0.02 - 1) < 0.15, key


def test_nalaformer_leaves_its_linears_but_not_its_classifier_to_torch():
    model = small("nalaformer_xt", num_classes=100)
    assert abs(model.head.weight.std().item() / 0.02 - 1) < 0.1 and (model.head.bias == 0).all()
    assert abs(model.stem.conv3.weight.std().item() / 0.02 - 1) < 0.1
    for module in (model.neck.proj, model.stages[1].blocks[0].attn.qkvg, model.stages[1].blocks[0].ffn.fc1):
        bound = module.in_features**-0.5  # torch: uniform within it
        assert 0.9 * bound < module.weight.abs().max() <= bound
        assert abs(module.weight.std().item() / (bound / 3**0.5) - 1) < 0.1
        assert (module.bias != 0).any()


def test_norms_start_at_one_and_zero_and_layer_scales_as_published():
    model = timm.create_model("ravlt_base", depths=(1, 1, 1, 1), dims=(24, 48, 48, 96), heads=(1, 2, 2, 4))
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
            assert module.eps == (1e-5 if isinstance(module, nn.BatchNorm2d) else 1e-6)
    for stage, init in zip(model.stages, (1.0, 1.0, 1e-6, 1e-6), strict=True):
        assert (stage.blocks[0].ls1.gamma == init).all() and (stage.blocks[0].ls2.gamma == init).all()
    assert not any("gamma" in key for key in small(layer_scale=False).state_dict())


def test_half_precision_construction_draws_no_outliers():
    model = small(dtype=torch.float16)
    assert all(p.dtype == torch.float16 for p in model.parameters())
    assert model.stages[3].blocks[0].ffn.fc1.weight.abs().max() < 0.2


def test_a_model_made_on_meta_and_loaded_equals_the_original():
    model = small("nalaformer_xt").eval()
    blank = small("nalaformer_xt", device="meta").eval()
    assert all(t.is_meta for t in itertools.chain(blank.parameters(), blank.buffers()))
    blank.load_state_dict(model.state_dict(), assign=True)
    x = torch.randn(1, 3, 40, 56)
    with torch.inference_mode():
        assert torch.equal(blank(x), model(x))


def test_drop_path_rises_linearly_over_the_blocks_of_the_whole_net():
    model = timm.create_model("mala_tiny", device="meta")
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.1 * n / 11 for n in range(12)])
    model = small(drop_path_rate=0.4)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.4 * n / 4 for n in range(5)])


def test_drop_path_acts_in_training_only():
    model = small(drop_path_rate=0.9)
    x = torch.randn(2, 3, 64, 64)
    assert not torch.equal(model(x), model(x))
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(x), model(x))


# --- how it is trained


def test_layer_decay_groups_are_ordered_from_stem_to_head():
    model = small("nalaformer_xt")
    for coarse in (False, True):
        groups = timm.models.group_parameters(model, model.group_matcher(coarse=coarse))
        order = [groups[i] for i in sorted(groups)]
        assert all(name.startswith("stem.") for name in order[0])
        assert all(name.startswith(("head.", "neck.")) for name in order[-1])
        assert sum(map(len, order)) == len(list(model.named_parameters()))
    scales = [g["lr_scale"] for g in param_groups_layer_decay(model, layer_decay=0.5)]
    assert max(scales) == 1 and min(scales) < 0.1


def test_layer_scales_and_norms_are_not_decayed():
    model = small()
    gammas = {n for n, _ in model.named_parameters() if n.endswith("gamma")}
    assert model.no_weight_decay() == gammas and len(gammas) == 10
    free, decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    assert free["weight_decay"] == 0 and all(p.ndim == 1 for p in free["params"])
    assert all(p.ndim > 1 for p in decayed["params"])


@pytest.mark.parametrize("name", FAMILIES)
def test_checkpointing_changes_no_gradient(name):
    model = small(name, drop_path_rate=0.3)
    x = torch.randn(2, 3, 64, 48)
    grads = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        assert all(stage.grad_checkpointing is enable for stage in model.stages)
        model.zero_grad()
        torch.manual_seed(3)
        model(x).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_every_parameter_gets_a_gradient():
    for name in FAMILIES:
        model = small(name, drop_path_rate=0.0, mixers=("linear", "softmax", "linear", "softmax"))
        model(torch.randn(2, 3, 64, 64)).square().sum().backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key
            before_norm = key.startswith(("stem.conv", "neck.proj")) or "downsample.conv" in key
            if not (before_norm and key.endswith("bias")):  # BatchNorm takes such a bias out again
                assert parameter.grad.abs().sum() > 0, key


def test_pruning_removes_later_stages_the_neck_and_the_classifier():
    model = small().eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model.forward_intermediates(x, indices=(0, 1), intermediates_only=True)
        assert model.prune_intermediate_layers((0, 1)) == [0, 1]
        assert len(model.stages) == 2 and isinstance(model.neck, nn.Identity)
        assert model.num_features == 32 and model.num_classes == 0
        got = model.forward_intermediates(x, intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
        assert torch.equal(model(x), expected[1])
    whole = small().eval()
    whole.prune_intermediate_layers((3,), prune_head=False)
    assert whole(x).shape == (1, 5)


def test_resetting_the_classifier_changes_classes_pooling_and_nothing_else():
    model = small(dtype=torch.float64).eval()
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    before = model.forward_features(x)
    assert model.get_classifier() is model.head
    model.reset_classifier(7)
    assert model(x).shape == (1, 7) and model.num_classes == 7 and model.head.weight.dtype == torch.float64
    assert torch.equal(model.forward_features(x), before)
    assert torch.equal(model.forward_head(before, pre_logits=True), before.mean((2, 3)))
    model.reset_classifier(3, "max")
    assert torch.equal(model.forward_head(before, pre_logits=True), before.amax((2, 3)))
    model.reset_classifier(0)
    assert torch.equal(model(x), before.amax((2, 3)))
    model.reset_classifier(0, "")
    assert torch.equal(model(x), before)
    assert model.num_features == model.head_hidden_size == 32


def test_stage_features_come_before_downsampling_in_both_layouts():
    model = small().eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        final, maps = model.forward_intermediates(x)
        assert torch.equal(final, model.forward_features(x))
        assert [tuple(m.shape) for m in maps] == [
            (1, 16, 16, 24),
            (1, 32, 8, 12),
            (1, 32, 4, 6),
            (1, 64, 2, 3),
        ]
        assert torch.equal(model.stages[1](maps[0]), maps[1])
        channels_last = model.forward_intermediates(x, output_fmt="NHWC", intermediates_only=True)
        assert all(torch.equal(a.permute(0, 2, 3, 1), b) for a, b in zip(maps, channels_last, strict=True))
        early, two = model.forward_intermediates(x, indices=(0, 1), stop_early=True)
        assert len(two) == 2 and torch.equal(early, maps[1])
    with pytest.raises(ValueError, match="output_fmt must be NCHW or NHWC, got 'NLC'"):
        model.forward_intermediates(x, output_fmt="NLC")


def test_resolve_mixers_expands_names_in_order():
    got = pyramid.resolve_mixers(("softmax", "linear", "nala", "softmax"), 4, "mala", "nala_softmax")
    assert got == ("nala_softmax", "mala", "nala", "nala_softmax")


@pytest.mark.parametrize("kind", ["getter", "hook", "list", "dict"])
def test_getter_hook_list_and_dict_extractors_of_timm_give_the_stage_outputs(kind):
    model = small().eval()
    extractor = small(features_only=True, feature_cls=kind).eval()
    names = {
        k.replace("model.", "").replace("body.", "").replace("stages_", "stages."): k
        for k in extractor.state_dict()
    }
    extractor.load_state_dict({k: model.state_dict()[n] for n, k in names.items()})
    x = torch.randn(1, 3, 70, 64)
    with torch.inference_mode():
        expected = model.forward_intermediates(x, intermediates_only=True)
        got = extractor(x)
        got = list(got.values()) if isinstance(got, dict) else got
    assert extractor.feature_info.channels() == [m.shape[1] for m in expected]
    assert extractor.feature_info.reduction() == [4, 8, 16, 32]
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
