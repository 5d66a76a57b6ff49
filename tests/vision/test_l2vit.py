"""L2ViT: parity with the authors' figures, its options, and what it must survive."""

import argparse

import pytest
import timm
import torch
import torch.nn.functional as F

from linzoo.vision import l2vit
from linzoo.vision.l2vit.blocks import GlobalBlock, WindowBlock
from linzoo.vision.l2vit.mixer import LinearGlobalAttention, LocalConcentration, WindowAttention
from linzoo.vision.l2vit.stem import PaddedDownsample, PaddedStem
from linzoo.vision.l2vit.windows import _gather_tokens, _gather_windows, join_windows, split_windows

from ..parity_fill import assert_matches, condition, figures, fill, random
from .test_parity import F32, F64, check_case, plain_cases

SMALL = {"dims": (16, 32, 48, 64), "depths": (2, 1, 2, 2), "heads": (1, 2, 3, 4), "num_classes": 5}


def slim(name):
    """Both kinds of block, window and linear, in the fewest."""
    return {"depths": (2, 1, 1, 2)}


SLOW = [pytest.param(v, marks=pytest.mark.slow) if "base" in v else v for v in l2vit.VARIANTS]


def small(**changes):
    return timm.create_model("l2vit_tiny", **{**SMALL, **changes})


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


# --- parity -----------------------------------------------


@pytest.mark.parametrize("variant", SLOW)
def test_outputs_and_stages_equal_the_authors_in_float64_and_float32(variant, request):
    record = figures(variant)
    official = fill(record["state_dict"], record["keep"])
    model = timm.create_model(variant, device="meta").eval()
    assert sum(p.numel() for p in model.parameters()) == record["params"]

    model.load_state_dict(l2vit.from_official(official), strict=True, assign=True)
    for case in plain_cases(record, variant, request.config):
        check_case(model, case, torch.float64)

    official = condition(official, record["conditioned"])
    model.load_state_dict(l2vit.from_official(official), strict=True, assign=True)
    (case,) = record["conditioned"]["cases"]
    double = check_case(model, case, torch.float64)
    single = check_case(model.float(), case, torch.float32)
    for name, expected in double.items():
        assert relative(single[name], expected) <= F32, name


PARTS = {
    "l2vit_linear": lambda: LinearGlobalAttention(64, 2),
    "l2vit_linear_clamped": lambda: LinearGlobalAttention(64, 2),
    "l2vit_lcm": lambda: LocalConcentration(64),
    "l2vit_window4": lambda: WindowAttention(64, 2, 4),
    "l2vit_window7": lambda: WindowAttention(64, 2, 7),
    "l2vit_lwa_block": lambda: WindowBlock(64, 2, 7),
    "l2vit_lga_block": lambda: GlobalBlock(64, 2),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("part", PARTS)
def test_parts_and_their_input_gradients_equal_the_authors(part, dtype):
    record = figures("mixers")["mixers"][part]
    module = PARTS[part]().to(dtype).eval()
    # the recorded names are those of the bare module; the converter knows names inside a model
    official = fill(record["state_dict"])
    prefix = (
        "stages.0.0."
        if "block" in part
        else "stages.0.0.local_mp."
        if part == "l2vit_lcm"
        else "stages.0.0.attn."
    )
    named = l2vit.from_official({prefix + k: v for k, v in official.items()})
    inside = prefix.replace("stages.0.0.", "stages.0.blocks.0.").replace("local_mp.", "lcm.")
    module.load_state_dict({k.removeprefix(inside): v for k, v in named.items()}, strict=True)

    given = record["input"]
    image = (random(given["shape"], given["seed"]) * given["scale"]).to(dtype).requires_grad_()
    out = module(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    (out * random(out.shape, record["probe_seed"]).to(dtype)).sum().backward()
    tolerance, values = (F64, 1) if dtype == torch.float64 else (F32, 4)
    assert_matches(out, record["output"], tolerance, "output", values)
    assert_matches(image.grad, record["input_grad"], tolerance, "input gradient", values)


def test_the_clamped_figures_do_reach_the_bound():
    record = figures("mixers")["mixers"]["l2vit_linear_clamped"]
    module = LinearGlobalAttention(64, 2).double()
    named = l2vit.from_official({"stages.0.0.attn." + k: v for k, v in fill(record["state_dict"]).items()})
    module.load_state_dict({k.rsplit("attn.", 1)[1]: v for k, v in named.items()})
    x = random(record["input"]["shape"], 0) * record["input"]["scale"]
    q, k, _ = module.split_heads(x.permute(0, 2, 3, 1).flatten(1, 2))
    denominator = torch.einsum("bnhd,bhd->bnh", q.relu(), k.relu().sum(1))
    assert 0.5 < (denominator < module.bound).double().mean() < 1


# --- checkpoints ------------------------------------------


@pytest.fixture(scope="module")
def official():
    torch.manual_seed(1)
    return l2vit.to_official(small().state_dict())


def test_official_names_go_back_and_forth():
    record = figures("l2vit_tiny")["state_dict"]
    ours = timm.create_model("l2vit_tiny", device="meta").state_dict()
    theirs = l2vit.to_official(ours)
    assert {k: list(v.shape) for k, v in theirs.items()} == record
    back = l2vit.from_official(theirs)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in ours.items()}


@pytest.mark.parametrize("wrapper", ["model_ema", "model", "state_dict", "module", None])
def test_a_file_in_the_official_format_loads_through_timm(official, tmp_path, wrapper):
    other = {k: torch.zeros_like(v) for k, v in official.items()}
    content = {wrapper: official, "epoch": 3} if wrapper else official
    if wrapper == "model_ema":
        content["model"] = other  # the averaged weights are the published ones
    torch.save(content, tmp_path / "file.pth")
    overlay = {"file": str(tmp_path / "file.pth"), "num_classes": 5}
    model = small(pretrained=True, pretrained_cfg_overlay=overlay)
    for key, value in l2vit.from_official(official).items():
        assert torch.equal(model.state_dict()[key], value), key


def test_a_file_behind_a_url_loads_with_its_training_arguments_and_stays_in_the_cache(official, tmp_path):
    content = {"model": official, "args": argparse.Namespace(lr=1e-3), "epoch": 3}
    torch.save(content, tmp_path / "published.pth")
    overlay = {"url": (tmp_path / "published.pth").as_uri(), "num_classes": 5}
    model = small(pretrained=True, pretrained_cfg_overlay=overlay, cache_dir=tmp_path / "cache")
    expected = l2vit.from_official(official)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in expected.items())
    assert (tmp_path / "cache" / "published.pth").is_file()
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_official_weights_serve_other_heads_channels_and_features(official, tmp_path):
    torch.save(official, tmp_path / "file.pth")
    overlay = {"file": str(tmp_path / "file.pth"), "num_classes": 5}
    x = torch.randn(1, 3, 64, 64)
    full = small(pretrained=True, pretrained_cfg_overlay=overlay).eval()
    body, maps = full.forward_intermediates(x)

    ten = small(pretrained=True, pretrained_cfg_overlay=overlay, num_classes=10).eval()
    assert ten(x).shape == (1, 10)
    torch.testing.assert_close(ten.forward_features(x), body)

    features = small(
        pretrained=True, pretrained_cfg_overlay=overlay, features_only=True, out_indices=(1, 2)
    ).eval()
    for got, expected in zip(features(x), maps[1:3], strict=True):
        torch.testing.assert_close(got, expected)

    grey = small(pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1).eval()
    torch.testing.assert_close(
        grey.stem.conv0.weight, full.stem.conv0.weight.sum(1, keepdim=True), rtol=1e-5, atol=1e-6
    )


def test_dense_prediction_files_load_into_a_feature_extractor(official, tmp_path):
    dense = {k: v for k, v in official.items() if not k.startswith(("norm.", "head."))}
    dense.update({f"norm{i}.{part}": torch.ones(dim) for i, dim in enumerate(SMALL["dims"])
                  for part in ("weight", "bias")})  # fmt: skip
    assert l2vit.to_official(l2vit.from_official(dense)).keys() == dense.keys()
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in dense.items()}}, tmp_path / "dense.pth")
    overlay = {"file": str(tmp_path / "dense.pth")}
    features = small(pretrained=True, pretrained_cfg_overlay=overlay, features_only=True)
    expected = l2vit.from_official(official)
    got = features.state_dict()
    assert got.keys() == {f"model.{k}" for k in expected if not k.startswith(("norm.", "head."))}
    assert all(torch.equal(v, expected[k.removeprefix("model.")]) for k, v in got.items())
    again = small(features_only=True, out_indices=(1, 3))
    again.load_state_dict(l2vit.checkpoint_filter_fn(dense, again), strict=True)


def test_a_classification_file_without_its_norm_is_refused(official):
    part = {k: v for k, v in official.items() if not k.startswith("norm.")}
    with pytest.raises(ValueError, match=r"missing \(first: norm\.weight\)"):
        l2vit.checkpoint_filter_fn(part, small())


def test_configurations_name_the_published_files_and_promise_nothing_else():
    listed = set(timm.list_pretrained("l2vit*"))
    assert listed == {
        "l2vit_tiny.in1k", "l2vit_small.in1k", "l2vit_base.in1k", "l2vit_base.in22k_ft_in1k",
        "l2vit_base.in22k", "l2vit_base_384.in22k_ft_in1k",
    }  # fmt: skip
    for name in listed:
        cfg = timm.get_pretrained_cfg(name)
        assert cfg.url.startswith("https://github.com/ChuanyangZheng/L2ViT/releases/download/v1.0/L2ViT-")
        assert cfg.url.endswith(".pth") and cfg.license == "mit" and cfg.hf_hub_id is None
    assert timm.get_pretrained_cfg("l2vit_base.in22k").num_classes == 21841
    at_384 = timm.data.resolve_model_data_config(timm.create_model("l2vit_base_384", device="meta"))
    assert (at_384["input_size"], at_384["crop_mode"], at_384["crop_pct"]) == ((3, 384, 384), "squash", 1.0)


# --- options ----------------------------------------------


def test_alternate_puts_windows_at_even_and_linear_attention_at_odd_places():
    for stage in small().stages:
        for j, block in enumerate(stage.blocks):
            assert type(block.attn).__name__ == ("LinearGlobalAttention" if j % 2 else "WindowAttention")


@pytest.mark.parametrize("name", ["linear", "window", "softmax"])
def test_every_mixer_runs_and_changes_the_output(name):
    torch.manual_seed(0)
    x = torch.randn(1, 3, 64, 64)
    model = small(mixers=name).eval()
    assert model(x).shape == (1, 5)
    kinds = {type(b.attn).__name__ for s in model.stages for b in s.blocks}
    assert kinds == {
        {"linear": "LinearGlobalAttention", "window": "WindowAttention"}.get(name, "SoftmaxGlobalAttention")
    }
    mixed = small(mixers=(name, "alternate", "alternate", name)).eval()
    assert mixed(x).shape == (1, 5)


def test_softmax_is_the_linear_model_with_the_attention_exchanged():
    linear, softmax = small(mixers="linear"), small(mixers="softmax")
    weights = {k: v for k, v in linear.state_dict().items() if not k.endswith("temperature")}
    softmax.load_state_dict(weights, strict=True)


def test_a_window_as_large_as_the_image_is_softmax_over_all_tokens():
    torch.manual_seed(0)
    window = WindowAttention(32, 2, 6).double()
    everything = l2vit.mixer.SoftmaxGlobalAttention(32, 2).double()
    everything.load_state_dict(window.state_dict())
    x = torch.randn(2, 6, 6, 32, dtype=torch.float64)
    torch.testing.assert_close(window(x), everything(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixers": "windwo"}, "did you mean 'window'"),
        ({"mixers": ("linear",) * 3}, "one a stage"),
        ({"heads": (1, 2, 3, 5)}, "heads must divide dim=64, got 5"),
        ({"depths": (1, 1, 1)}, "depths must have one entry a stage"),
        ({"window_size": 0}, "window_size must be an integer of at least 1, got 0"),
    ],
)
def test_wrong_options_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_set_input_size_changes_the_windows_and_no_parameter():
    model = small().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.randn(1, 3, 96, 96)
    small_window = model(x)
    model.set_input_size(img_size=384)
    windows = {m.window_size for m in model.modules() if isinstance(m, WindowAttention)}
    assert windows == {12}
    assert not torch.allclose(model(x), small_window)
    model.set_input_size(window_size=7)
    torch.testing.assert_close(model(x), small_window)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match="got neither"):
        model.set_input_size()


def test_drop_path_and_head_init_scale_have_an_effect():
    torch.manual_seed(0)
    model = small(drop_path_rate=0.9).train()
    x = torch.randn(2, 3, 64, 64)
    assert not torch.equal(model(x), model(x))
    rates = [b.drop_path.drop_prob for s in model.stages for b in s.blocks]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.9) and rates == sorted(rates)
    torch.manual_seed(0)
    whole = small().head.weight
    torch.manual_seed(0)
    torch.testing.assert_close(small(head_init_scale=0.001).head.weight, whole * 0.001)


@pytest.mark.parametrize("output_fmt", ["NCHW", "NHWC"])
def test_norm_of_intermediates_is_the_final_norm_on_the_last_stage(output_fmt):
    model = small().eval()
    torch.nn.init.normal_(model.norm.bias)
    x = torch.randn(1, 3, 64, 64)
    plain = model.forward_intermediates(x, (1, 3), output_fmt=output_fmt, intermediates_only=True)
    final, normed = model.forward_intermediates(x, (1, 3), norm=True, output_fmt=output_fmt)
    torch.testing.assert_close(normed[0], plain[0])
    assert not torch.allclose(normed[1], plain[1])
    torch.testing.assert_close(normed[1] if output_fmt == "NCHW" else normed[1].permute(0, 3, 1, 2), final)


def test_temperatures_are_the_names_in_no_weight_decay():
    model = small()
    names = dict(model.named_parameters())
    assert model.no_weight_decay() == {n for n in names if n.endswith("temperature")} != set()
    assert all(names[n].ndim == 1 for n in model.no_weight_decay())


def test_the_linear_attention_is_a_mixer_of_the_pyramid():
    model = timm.create_model(
        "ravlt_tiny",
        dims=(16, 32, 48, 64),
        depths=(1, 1, 1, 1),
        heads=(1, 2, 3, 4),
        mixers="l2",
        num_classes=3,
    )
    assert {type(b.attn).__name__ for s in model.stages for b in s.blocks} == {"LinearGlobalAttention"}
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


# --- hazards ----------------------------------------------


def linear_by_definition(module, x):
    """The equation with every step in the input's precision and the N x N matrix held."""
    q, k, v = (t.transpose(1, 2) for t in module.split_heads(x.flatten(1, 2)))
    weights = q.relu() @ k.relu().mT
    bounded = weights.sum(-1, keepdim=True).clamp(min=100.0)
    y = module.temperature[:, None, None] * (weights @ v) / bounded
    return module.proj(y.transpose(1, 2).flatten(2)).unflatten(1, x.shape[1:3])


def test_linear_attention_in_float16_holds_at_16k_tokens():
    torch.manual_seed(0)
    module = LinearGlobalAttention(64, 2).double()
    torch.nn.init.normal_(module.qkv.weight, std=0.3)  # sums of 16 k keys pass 65504
    x = torch.randn(1, 128, 128, 64, dtype=torch.float64)
    q, k, _ = module.split_heads(x.flatten(1, 2))
    assert torch.einsum("bnhd,bhd->bnh", q.relu(), k.relu().sum(1)).max() > 65504
    half = LinearGlobalAttention(64, 2).half()
    half.load_state_dict(module.state_dict())
    assert relative(half(x.half()), module(x)) < 5e-3


def test_rows_under_the_bound_pass_no_gradient_through_the_denominator():
    torch.manual_seed(0)
    module = LinearGlobalAttention(16, 2).double()
    x = (0.1 * torch.randn(1, 3, 3, 16, dtype=torch.float64)).requires_grad_()
    q, k, v = (t.transpose(1, 2) for t in module.split_heads(x.flatten(1, 2)))
    weights = q.relu() @ k.relu().mT
    assert weights.sum(-1).max() < 100
    constant = module.temperature[:, None, None] * (weights @ v) / 100.0
    expected = module.proj(constant.transpose(1, 2).flatten(2)).square().sum()
    (want,) = torch.autograd.grad(expected, x)
    (got,) = torch.autograd.grad(module(x).square().sum(), x)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("scale", [0.1, 3.0], ids=["under the bound", "above the bound"])
def test_linear_attention_equals_its_definition_with_gradients(scale):
    torch.manual_seed(0)
    module = LinearGlobalAttention(16, 2).double()
    with torch.no_grad():
        module.qkv.weight.mul_(3)
        module.temperature.copy_(torch.tensor([0.5, 1.5]))
    x = (scale * torch.randn(2, 5, 7, 16, dtype=torch.float64)).requires_grad_()
    wrt = [x, *module.parameters()]
    got = torch.autograd.grad(module(x).square().sum(), wrt)
    want = torch.autograd.grad(linear_by_definition(module, x).square().sum(), wrt)
    torch.testing.assert_close(module(x), linear_by_definition(module, x), rtol=1e-10, atol=1e-12)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


SIZES = [(8, 8), (5, 6), (7, 3), (9, 16), (1, 1), (14, 21), (17, 40)]


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_the_stem_computes_on_zeros_up_to_a_multiple_of_four(size):
    torch.manual_seed(0)
    stem = PaddedStem(3, 16).double().eval()
    for norm in (stem.norm0, stem.norm1):
        torch.nn.init.normal_(norm.bias)
    height, width = size
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    padded = torch.zeros(2, 3, -(-height // 4) * 4, -(-width // 4) * 4, dtype=torch.float64)
    padded[:, :, :height, :width] = x
    y = stem.act(stem.norm0(F.conv2d(padded, stem.conv0.weight, stem.conv0.bias, 2, 1)))
    y = stem.norm1(F.conv2d(y, stem.conv1.weight, stem.conv1.bias, 2, 1))
    want = stem.token_norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(stem(x), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_downsampling_pads_odd_sizes_with_zeros_after_the_norm(size):
    torch.manual_seed(0)
    down = PaddedDownsample(4, 6).double()
    torch.nn.init.normal_(down.norm.bias)
    height, width = size
    x = torch.randn(2, 4, height, width, dtype=torch.float64)
    padded = torch.zeros(2, 4, height + height % 2, width + width % 2, dtype=torch.float64)
    padded[:, :, :height, :width] = down.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    want = F.conv2d(padded, down.conv.weight, down.conv.bias, 2)
    torch.testing.assert_close(down(x), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_padding_of_windows_is_zero_and_not_masked(size):
    torch.manual_seed(0)
    module = WindowAttention(16, 2, 7).double()
    torch.nn.init.normal_(module.qkv.bias)
    height, width = size
    x = torch.randn(2, height, width, 16, dtype=torch.float64)
    padded = torch.zeros(2, -(-height // 7) * 7, -(-width // 7) * 7, 16, dtype=torch.float64)
    padded[:, :height, :width] = x
    want = torch.empty_like(padded)
    for top in range(0, padded.shape[1], 7):
        for left in range(0, padded.shape[2], 7):
            tokens = padded[:, top : top + 7, left : left + 7].reshape(2, 49, 16)
            q, k, v = (t.transpose(1, 2) for t in module.split_heads(tokens))
            y = ((q @ k.mT) * 8**-0.5).softmax(-1) @ v
            want[:, top : top + 7, left : left + 7] = module.proj(y.transpose(1, 2).flatten(2)).view(
                2, 7, 7, 16
            )
    torch.testing.assert_close(module(x), want[:, :height, :width], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_windows_of_the_exported_form_are_the_eager_ones(size):
    x = torch.randn(3, *size, 4)
    windows = split_windows(x, 7)
    assert torch.equal(_gather_windows(x, 7), windows)
    assert torch.equal(join_windows(windows, 7, x.shape[:3]), x)
    assert torch.equal(_gather_tokens(windows, 7, *x.shape[:3]), x)


@pytest.mark.parametrize("size", [(225, 231), (17, 40), (7, 7)], ids="{0[0]}x{0[1]}".format)
def test_any_size_runs(size):
    model = small().eval()
    _, maps = model.forward_intermediates(torch.randn(1, 3, *size))
    for i, feature in enumerate(maps):
        step = 4 * 2**i
        assert feature.shape[2:] == (-(-size[0] // step), -(-size[1] // step))


def test_training_on_a_1x1_map_needs_a_batch():
    model = small().train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.randn(1, 3, 32, 32))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)


def test_channels_last_images_give_the_same_logits():
    model = small().eval()
    x = torch.randn(2, 3, 70, 90)
    torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last)), model(x))
