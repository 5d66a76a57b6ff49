"""What timm asks of a model, asked of every variant, or of one a model class where sizes do not matter.

Slim models have a variant's widths and heads but few blocks, which keeps all variants within minutes; where a
test says "published", the depth is the published one too. Images are 64 to 96 pixels. Nothing here knows a
family: reductions, stages and pools are the models' own.
"""

import copy
import importlib
import re

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.models import group_parameters, load_checkpoint, save_for_hf
from torch import nn

import linzoo.vision

from .slim import MODULES, NAMES, first_blocks, forms, parts, slim_depths

CONFIGURED = {name: cfg for module in MODULES.values() for name, cfg in module.default_cfgs.items()}
FORMS = forms()
every_variant = pytest.mark.parametrize("name", NAMES)
every_form = pytest.mark.parametrize("name", FORMS)


def slim(name, **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, **slim_depths(name), **{"drop_path_rate": 0.0, **kwargs})


def lively(name, **kwargs):
    """A slim model in float64, in eval mode, in which every parameter matters to the output."""
    model = slim(name, **kwargs).double()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point() and value.ndim > 1:
                value.normal_(std=value[0].numel() ** -0.5)
            elif key.endswith((".gamma", ".temperature")):
                value.uniform_(0.5, 1.0)
            elif key.endswith("bias"):
                value.normal_(std=0.1)
    return model.eval()


def image(*size, dtype=torch.float32):
    return torch.randn(*size, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


def as_map(model, out, like):
    """What a stage or block returns, as an image: tokens (B, P + N, C) become (B, C, h, w) as ``like``."""
    if out.ndim == 4:
        return out
    return out[:, model.num_prefix_tokens :].unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


def pooled(model, body, kind):
    """``body`` of forward_features, pooled as ``kind`` says."""
    if kind == "token":
        return body[:, 0]
    image = body if body.ndim == 4 else body[:, model.num_prefix_tokens :]
    axes = (2, 3) if body.ndim == 4 else 1
    means = image.mean(axes) if kind == "avg" else image.amax(axes)
    return model.fc_norm(means) if hasattr(model, "fc_norm") else means


def test_timm_lists_every_variant_of_every_family_and_configures_each():
    assert len(set(NAMES)) == len(NAMES) > 0
    for family, module in MODULES.items():
        assert module.VARIANTS and all(name.startswith(f"{family}_") for name in module.VARIANTS)
        assert sorted(timm.list_models(module=family)) == sorted(module.VARIANTS)
        assert set(module.default_cfgs) == set(module.VARIANTS)
        assert sorted(timm.list_models(f"{family}_*")) == sorted(timm.list_models(module=family))
    for name in NAMES:
        assert timm.is_model(name)


# --- forward and backward, as published


@pytest.mark.slow
@every_form
def test_the_published_model_runs_and_gives_every_parameter_a_finite_gradient(name):
    torch.manual_seed(0)
    model = timm.create_model(name, drop_path_rate=0.0)
    with torch.inference_mode():
        logits = model.eval()(image(1, 3, 64, 96))
    assert logits.shape == (1, 1000) and logits.isfinite().all()

    model.train()(image(2, 3, 64, 64)).square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{key} gets no gradient"
        assert parameter.grad.isfinite().all(), f"{key}'s gradient is not finite"


@every_form
def test_every_parameter_matters(name):
    model = lively(name)
    # of the features too: what a last block does to image tokens, a class token does not see
    body = model.forward_features(image(2, 3, 64, 64, dtype=torch.float64))
    (model.forward_head(body).square().sum() + body.square().sum()).backward()
    for key, parameter in model.named_parameters():
        if re.search(r"attn\.(qkvg|qkv)\.bias$", key):
            continue  # parts of it cancel, as a shift of the keys does in a softmax
        assert parameter.grad.abs().max() > 1e-9, f"{key} does not matter"


# --- configuration


@every_variant
def test_the_configuration_describes_the_model(name):
    model = timm.create_model(name, device="meta").eval()
    cfg = model.default_cfg
    assert cfg == model.pretrained_cfg and cfg["architecture"] == name
    assert cfg["paper_ids"].startswith("arXiv:") and cfg["origin_url"].startswith("https://github.com/")
    assert cfg.get("license") == CONFIGURED[name].default.license  # which one, the family's own test says
    classifier = model.get_submodule(cfg["classifier"])
    assert classifier is model.get_classifier()
    assert classifier.out_features == cfg["num_classes"] == model.num_classes == 1000
    assert classifier.in_features == model.head_hidden_size
    assert model.get_submodule(cfg["first_conv"]).in_channels == cfg["input_size"][0] == 3
    body = model.forward_features(torch.empty(2, *cfg["input_size"], device="meta"))
    if cfg["pool_size"] is None:  # timm: tokens
        step = model.feature_info[-1]["reduction"]
        places = cfg["input_size"][1] // step * (cfg["input_size"][2] // step)
        assert body.shape == (2, model.num_prefix_tokens + places, model.num_features)
    else:
        assert body.shape == (2, model.num_features, *cfg["pool_size"])
    assert model.forward_head(body).shape == (2, 1000)


@every_variant
def test_data_configuration_prepares_an_image_of_the_configured_size(name):
    model = timm.create_model(name, device="meta")
    data = resolve_model_data_config(model)
    assert data["input_size"] == model.pretrained_cfg["input_size"]
    assert data["interpolation"] == "bicubic" and data["crop_mode"] in ("center", "squash")
    assert data["mean"] == (0.485, 0.456, 0.406) and data["std"] == (0.229, 0.224, 0.225)
    prepared = create_transform(**data)(Image.new("RGB", (50, 30), (124, 116, 104)))  # the mean, in bytes
    assert prepared.shape == data["input_size"] and prepared.abs().max() < 0.02


def test_weights_are_promised_where_a_source_is_configured_and_nowhere_else():
    expected = set()
    for name, configured in CONFIGURED.items():
        for tag, cfg in configured.cfgs.items():
            assert all("top-1" in note for note in cfg.notes or ()), "published accuracy only"
            sourced = bool(cfg.url or cfg.hf_hub_id)
            assert sourced == bool(cfg.has_weights)
            if sourced:
                assert cfg.license, "weights without a licence are not offered"
                expected.add(f"{name}.{tag}" if tag else name)
    assert {n for n in timm.list_pretrained() if n.split(".")[0] in NAMES} == expected


@every_variant
def test_asking_for_weights_that_nobody_published_fails(name):
    if timm.get_pretrained_cfg(name).has_weights:
        pytest.skip("published; nothing is downloaded in a test")
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        timm.create_model(name, pretrained=True, **slim_depths(name), device="meta")


# --- features


@every_variant
def test_features_are_as_feature_info_says(name):
    model = slim(name, features_only=True).eval()
    x = image(1, 3, 96, 64)
    channels, reductions = model.feature_info.channels(), model.feature_info.reduction()
    features = model(x)
    assert len(features) == len(channels) >= 3
    for feature, dim, step in zip(features, channels, reductions, strict=True):
        assert feature.shape == (1, dim, 96 // step, 64 // step)


@every_variant
def test_strides_double_from_4_to_32_or_stay(name):
    steps = [info["reduction"] for info in timm.create_model(name, device="meta").feature_info]
    assert steps == [4, 8, 16, 32] or (len(set(steps)) == 1 and len(steps) > 4)


@every_form
def test_chosen_features_are_those_of_the_whole_model(name):
    x = image(1, 3, 64, 64)
    _, all_maps = slim(name).eval().forward_intermediates(x)
    chosen = slim(name, features_only=True, out_indices=(0, -2)).eval()
    last = len(all_maps) - 2
    assert list(chosen.out_indices) == [0, last]
    assert len(parts(chosen.model)) == last + 1
    for got, want in zip(chosen(x), (all_maps[0], all_maps[last]), strict=True):
        torch.testing.assert_close(got, want)


@every_form
def test_intermediates_equal_what_hooks_see(name):
    model = slim(name).eval()
    seen = {}
    for info in model.feature_info:
        module = info["module"]
        model.get_submodule(module).register_forward_hook(
            lambda _, __, out, module=module: seen.__setitem__(module, out)
        )
    x = image(1, 3, 64, 96)
    with torch.no_grad():
        final, maps = model.forward_intermediates(x)
        want = [seen[info["module"]].clone() for info in model.feature_info]
        torch.testing.assert_close(final, model.forward_features(x))
        torch.testing.assert_close(model.forward_head(final), model(x))
        for got, hooked in zip(maps, want, strict=True):
            assert torch.equal(got, as_map(model, hooked, got))
        last_two = model.forward_intermediates(x, 2, intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(last_two, maps[-2:], strict=True))
        seen.clear()
        early, (first,) = model.forward_intermediates(x, [0], stop_early=True)
        assert torch.equal(first, maps[0]) and list(seen) == [model.feature_info[0]["module"]]
        assert as_map(model, early, first).shape == first.shape
        other = "NHWC" if final.ndim == 4 else "NLC"
        tokens = model.forward_intermediates(x, [1], output_fmt=other, intermediates_only=True)[0]
        assert torch.equal(tokens.reshape(1, -1, maps[1].shape[1]), maps[1].flatten(2).mT)
        with pytest.raises(ValueError, match=f"output_fmt must be NCHW or {other}, got 'NCL'"):
            model.forward_intermediates(x, output_fmt="NCL")


@every_form
def test_pruning_keeps_the_asked_stages_and_their_outputs(name):
    model = slim(name).eval()
    x = image(1, 3, 64, 64)
    want = model.forward_intermediates(x, intermediates_only=True)
    assert model.prune_intermediate_layers([0, 1], prune_norm=True) == [0, 1]
    assert len(parts(model)) == 2
    got = model.forward_intermediates(x, [0, 1], intermediates_only=True)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    assert model.num_features == want[1].shape[1] and model.num_classes == 0
    torch.testing.assert_close(as_map(model, model(x), want[1]), want[1])


# --- the classifier


@every_form
def test_resetting_the_classifier(name):
    model = slim(name).eval()
    x = image(1, 3, 64, 64)
    body = model.forward_features(x)
    model.reset_classifier(7)
    assert model(x).shape == (1, 7) and model.num_classes == 7
    assert isinstance(model.get_classifier(), nn.Linear) and model.get_classifier().out_features == 7
    torch.testing.assert_close(model.forward_features(x), body)
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    torch.testing.assert_close(model(x), pooled(model, body, model.pool_type))
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(x), body)
    model.reset_classifier(3, "max")
    torch.testing.assert_close(model(x), model.get_classifier()(pooled(model, body, "max")))
    model.reset_classifier(3, "avg")
    torch.testing.assert_close(model(x), model.get_classifier()(pooled(model, body, "avg")))


@every_form
@pytest.mark.parametrize("training", [False, True])
def test_new_parts_are_in_the_mode_of_the_model(name, training):
    model = slim(name, drop_rate=0.9).train(training)
    model.reset_classifier(4)
    assert {m.training for m in model.modules()} == {training}
    model.prune_intermediate_layers([1])
    assert {m.training for m in model.modules()} == {training}


@every_form
def test_without_classes_or_pooling_features_come_out(name):
    model = slim(name, num_classes=0).eval()
    assert model(image(1, 3, 64, 64)).shape == (1, model.num_features)
    unpooled = slim(name, num_classes=0, global_pool="").eval()
    x = image(1, 3, 64, 96)
    assert torch.equal(unpooled(x), unpooled.forward_features(x)) and unpooled(x).ndim > 2


@every_form
def test_pre_logits_are_the_classifiers_input(name):
    model = slim(name, drop_rate=0.5).eval()
    body = model.forward_features(image(2, 3, 64, 64))
    pre = model.forward_head(body, pre_logits=True)
    assert pre.shape == (2, model.head_hidden_size)
    torch.testing.assert_close(model.get_classifier()(pre), model.forward_head(body))


@every_form
def test_dropout_before_the_classifier_acts_in_training_only(name):
    model = slim(name, drop_rate=0.5).train()
    body = torch.ones_like(model.forward_features(image(1, 3, 64, 64)))
    assert (model.forward_head(body, pre_logits=True) == 0).any()
    assert (model.eval().forward_head(body, pre_logits=True) != 0).all()


# --- weights


@every_form
def test_a_state_dict_makes_an_equal_model(name, tmp_path):
    model = lively(name)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    other = slim(name, dtype=torch.float64).eval()
    x = image(1, 3, 64, 64, dtype=torch.float64)
    assert not torch.allclose(other(x), model(x))
    load_checkpoint(other, str(tmp_path / "weights.pth"))
    assert torch.equal(other(x), model(x))


@every_form
def test_what_save_for_hf_writes_comes_back_from_the_directory(name, tmp_path):
    model = slim(name, num_classes=9).eval()
    save_for_hf(model, tmp_path, model_args=slim_depths(name), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = image(1, 3, 64, 64)
    assert torch.equal(again(x), model(x)) and again.num_classes == 9


@every_form
def test_a_model_made_on_meta_takes_weights(name):
    model = lively(name)
    hollow = slim(name, device="meta", dtype=torch.float64).eval()
    assert {p.device.type for p in [*hollow.parameters(), *hollow.buffers()]} == {"meta"}
    hollow.load_state_dict(model.state_dict(), assign=True)
    x = image(1, 3, 64, 64, dtype=torch.float64)
    assert torch.equal(hollow(x), model(x))


@every_form
def test_device_and_dtype_reach_every_parameter(name):
    model = slim(name, device="cpu", dtype=torch.bfloat16).eval()
    tensors = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
    assert {(t.device.type, t.dtype) for t in tensors} == {("cpu", torch.bfloat16)}
    assert model(image(1, 3, 64, 64, dtype=torch.bfloat16)).isfinite().all()
    model.reset_classifier(5)
    assert model.get_classifier().weight.dtype == torch.bfloat16


# --- numbers that must not depend on how they are asked for


@every_form
def test_checkpointing_changes_no_gradient(name):
    model = lively(name).train()
    x = image(2, 3, 64, 64, dtype=torch.float64)
    model(x).square().sum().backward()
    want = {k: p.grad.clone() for k, p in model.named_parameters()}
    model.zero_grad()
    calls = []
    for block in first_blocks(model):
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    model.set_grad_checkpointing(True)
    model(x).square().sum().backward()
    assert len(calls) == 2 * len(first_blocks(model)), "blocks are run again in the backward pass"
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, want[key], rtol=1e-10, atol=1e-12, msg=key)


@every_form
@pytest.mark.parametrize("size", [(65, 97), (33, 64)], ids="{0[0]}x{0[1]}".format)
def test_sizes_that_are_odd_or_not_square_run(name, size):
    model = slim(name).eval()
    with torch.inference_mode():
        final, maps = model.forward_intermediates(image(1, 3, *size))
    for info, feature in zip(model.feature_info, maps, strict=True):
        step = info["reduction"]
        assert feature.shape[2:] == tuple(-(-length // step) for length in size)
        assert feature.isfinite().all()
    assert final.isfinite().all()


@every_form
def test_images_of_a_batch_do_not_see_each_other(name):
    model = lively(name)
    x = image(2, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(model(x)[1:], model(x[1:]), rtol=1e-10, atol=1e-10)


@every_form
def test_channels_last_changes_nothing(name):
    model = lively(name)
    x = image(2, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        want = model(x)
        torch.testing.assert_close(
            model(x.contiguous(memory_format=torch.channels_last)), want, rtol=1e-10, atol=1e-10
        )
        model = model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(x), want, rtol=1e-10, atol=1e-10)


CASTS = {torch.float32: 1e-4, torch.float16: 0.03, torch.bfloat16: 0.2}


@every_form
def test_casts_stay_near_float64(name):
    model = lively(name)
    x = image(1, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        want = model(x)
        for dtype, bound in CASTS.items():
            got = copy.deepcopy(model).to(dtype)(x.to(dtype))
            assert got.dtype == dtype
            error = ((got.double() - want).norm() / want.norm()).item()
            assert error < bound, f"{dtype}: off by {error:.2e}"


# --- training


@every_variant
def test_parameter_groups_cover_the_model_in_order(name):
    model = slim(name, device="meta")
    names = {n for n, _ in model.named_parameters()}
    assert model.no_weight_decay() <= names
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse))
        flat = [n for group in groups.values() for n in group]
        assert sorted(flat) == sorted(names)
        first = ("stem.", "patch_embed.", "cls_token", "pos_embed")
        assert all(n.startswith(first) for n in groups[0])
        assert any(n.startswith("head.") for n in groups[max(groups)])
        layer = {n: i for i, group in groups.items() for n in group}
        of_blocks = [layer[n] for n, _ in model.named_parameters() if re.search(r"blocks\.\d+\.norm1\.w", n)]
        assert len(of_blocks) >= 3 and of_blocks == sorted(of_blocks) and min(of_blocks) > 0


@every_form
def test_distributed_data_parallel_trains_a_step(name, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = lively(name).train()
        single = copy.deepcopy(model)
        wrapped = nn.parallel.DistributedDataParallel(model)
        x = image(2, 3, 64, 64, dtype=torch.float64)
        single(x).square().sum().backward()
        wrapped(x).square().sum().backward()
        for (key, a), b in zip(model.named_parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9, msg=key)
    finally:
        torch.distributed.destroy_process_group()


def test_importing_registers_each_name_once():
    before = timm.list_models()
    importlib.reload(linzoo.vision)
    assert timm.list_models() == before and len(set(before)) == len(before)
