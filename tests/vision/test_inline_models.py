"""InLine's four forms at sizes and with options that the authors' code cannot take, and refusals."""

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table
from torch.nn.functional import interpolate

from linzoo.vision import inline
from linzoo.vision.inline.mixer import InLineAttention
from linzoo.vision.inline.window_attention import WindowAttention

from .slim import narrow
from .test_inline import slim


def small(name, **kwargs):
    torch.manual_seed(0)
    model = timm.create_model(name, **{**narrow(name), **slim(name), **kwargs})
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if "pos_embed" in key or "bias_table" in key or "cls_token" in key:
                value.normal_()
    return model.eval()


# --- which mixer where


@pytest.mark.parametrize(("name", "linear"), [
    ("swin_tiny", (2, 2, 6, 0)), ("swin_small", (2, 2, 0, 0)), ("swin_base", (2, 2, 2, 0)),
    ("cswin_base", (3, 6, 0, 0)), ("pvt_small", (3, 4, 6, 3)),
])  # fmt: skip
def test_linear_blocks_are_where_the_authors_configurations_have_them(name, linear):
    model = timm.create_model(f"inline_{name}", device="meta")
    mixes = [
        [any(n.endswith("local") for n, _ in block.named_modules()) for block in stage.blocks]
        for stage in model.stages
    ]
    assert tuple(map(sum, mixes)) == linear
    assert all(stage == sorted(stage, reverse=True) for stage in mixes), "the linear ones come first"


def test_windows_of_odd_blocks_are_shifted_and_as_large_as_published():
    for name, size in (("inline_swin_small", 7), ("inline_swin_base_384", 12)):
        model = timm.create_model(name, device="meta")
        assert {a.window_size for a in model.windows().values()} == {size}
        for stage in model.stages:
            for j, block in enumerate(stage.blocks):
                assert isinstance(block.attn, InLineAttention) or block.attn.shifted == (j % 2 == 1)
    model = timm.create_model("inline_cswin_base_384", device="meta")
    assert [[a.axis for a in s.blocks[0].attns] for s in model.stages[2:]] == [["down", "across"], ["all"]]
    assert model.stages[2].blocks[0].attns[0].split == 12


# --- position tables


def test_pvts_tables_are_compared_with_their_own_stages_grid():
    """Upstream compares all with the first stage's: 448 fails, 112 x 448 reads 56 x 56 as 28 x 112."""
    model = small("inline_pvt_tiny")
    for size in ((448, 448), (112, 448), (64, 96)):
        x = torch.randn(1, 3, *size)
        resized = small("inline_pvt_tiny", img_size=size)
        weights = dict(model.state_dict())
        for i, stage in enumerate(resized.stages):
            table = weights[f"stages.{i}.pos_embed"]
            side = 56 // 2**i
            image = table.mT.unflatten(-1, (side, side))
            assert stage.grid == tuple(-(-n // (4 * 2**i)) for n in size)
            wanted = interpolate(image, size=stage.grid, mode="bilinear", align_corners=False)
            weights[f"stages.{i}.pos_embed"] = wanted.flatten(2).mT
        resized.load_state_dict(weights)
        with torch.no_grad():
            torch.testing.assert_close(model(x), resized(x), rtol=1e-4, atol=1e-5)


def test_deits_table_is_resized_as_timm_does():
    model = small("inline_deit_tiny")
    x = torch.randn(1, 3, 288, 160)
    table = resample_abs_pos_embed(model.pos_embed, new_size=[18, 10], num_prefix_tokens=1)
    exact = small("inline_deit_tiny", img_size=(288, 160))
    exact.load_state_dict({**model.state_dict(), "pos_embed": table})
    with torch.no_grad():
        torch.testing.assert_close(model(x), exact(x))
        model.set_input_size((288, 160))
        assert model.pos_embed.shape == (1, 181, 32) and model.patch_embed.grid_size == (18, 10)
        torch.testing.assert_close(model(x), exact(x))


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("name", ["inline_deit_tiny", "inline_pvt_tiny"])
def test_a_file_of_another_image_size_is_resized_as_the_forward_would(name, official, tmp_path):
    source = small(name)
    weights = source.state_dict()
    torch.save(inline.to_official(weights) if official else weights, tmp_path / "at224.pth")
    overlay = {"file": str(tmp_path / "at224.pth"), "num_classes": 7}
    target = timm.create_model(
        name,
        **{**narrow(name), **slim(name)},
        img_size=(96, 160),
        pretrained=True,
        pretrained_cfg_overlay=overlay,
    ).eval()
    assert target.state_dict().keys() == weights.keys()
    x = torch.randn(1, 3, 96, 160)
    with torch.no_grad():
        torch.testing.assert_close(target(x), source(x))


def test_a_table_of_no_known_grid_is_refused():
    model = small("inline_deit_tiny")
    weights = {**model.state_dict(), "pos_embed": torch.zeros(1, 1 + 10 * 18, 32)}
    with pytest.raises(
        ValueError, match=r"must be of the model's grid \(14, 14\) or of a square one, got 180"
    ):
        inline.checkpoint_filter_fn(weights, model)


def test_set_input_size_resizes_pvts_tables_and_keeps_the_function():
    model = small("inline_pvt_tiny")
    x = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        want = model(x)
        model.set_input_size((96, 128))
        assert [tuple(s.pos_embed.shape) for s in model.stages] == [
            (1, 24 * 32, 16), (1, 12 * 16, 32), (1, 6 * 8, 48), (1, 3 * 4, 64),
        ]  # fmt: skip
        torch.testing.assert_close(model(x), want)


# --- windows


def test_set_input_size_resizes_swins_bias_tables_as_timm_does():
    model = small("inline_swin_small")
    before = {n: a.relative_position_bias_table.detach().clone() for n, a in model.windows().items()}
    model.set_input_size(img_size=(384, 416))
    for name, attn in model.windows().items():
        assert attn.window_size == 12
        want = resize_rel_pos_bias_table(before[name], (12, 12), (23 * 23, before[name].shape[1]))
        torch.testing.assert_close(attn.relative_position_bias_table.detach(), want)
    assert model(torch.randn(1, 3, 384, 416)).isfinite().all()


def test_a_file_of_smaller_windows_serves_the_model_at_384():
    weights = inline.to_official(small("inline_swin_base").state_dict())
    model = small("inline_swin_base_384")
    model.load_state_dict(inline.checkpoint_filter_fn(weights, model), strict=True)
    assert all(isinstance(a, WindowAttention) and a.window_size == 12 for a in model.windows().values())


def test_set_input_size_changes_cswins_stripes_and_no_parameter():
    model = small("inline_cswin_tiny")
    x = torch.randn(1, 3, 384, 384)
    with torch.no_grad():
        seven = model(x)
        model.set_input_size(img_size=384)
        assert not torch.allclose(model(x), seven)
        other = small("inline_cswin_tiny", split_sizes=(1, 2, 12, 12))
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(model(x), other(x))
        model.set_input_size(window_size=7)
        torch.testing.assert_close(model(x), seven)


# --- options


def test_deit_pools_the_class_token_or_the_images_tokens():
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        model = small("inline_deit_tiny")
        tokens = model.forward_features(x)
        assert tokens.shape == (2, 1 + 4 * 6, 32)
        for pool, want in (("token", tokens[:, 0]), ("avg", tokens[:, 1:].mean(1)), ("", tokens)):
            model.reset_classifier(0, pool)
            torch.testing.assert_close(model(x), want)


def test_deits_intermediates_come_with_the_class_token_where_it_is_asked_for():
    model = small("inline_deit_tiny")
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        final, pairs = model.forward_intermediates(x, 2, return_prefix_tokens=True, norm=True)
        image, prefix = pairs[-1]
        assert image.shape == (2, 32, 4, 6) and prefix.shape == (2, 1, 32)
        torch.testing.assert_close(prefix, final[:, :1])
        torch.testing.assert_close(image, final[:, 1:].mT.unflatten(-1, (4, 6)))


def test_the_last_local_residual_of_deit_reaches_no_logit_and_the_one_before_does():
    model = small("inline_deit_tiny").train()
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    reach = [block.attn.local.fc2.weight.grad.abs().max() > 0 for block in model.blocks]
    assert reach == [True, True, False]


@pytest.mark.parametrize("name", ["inline_swin_tiny", "inline_cswin_tiny"])
def test_norm_of_intermediates_is_the_final_norm_on_the_last_stage(name):
    model = small(name)
    torch.nn.init.normal_(model.norm.bias)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        plain = model.forward_intermediates(x, (1, 3), intermediates_only=True)
        final, normed = model.forward_intermediates(x, (1, 3), norm=True)
    torch.testing.assert_close(normed[0], plain[0])
    torch.testing.assert_close(normed[1], final)
    assert not torch.allclose(plain[1], final)


@pytest.mark.parametrize(("name", "mixers"), [
    ("inline_swin_tiny", "inline"), ("inline_swin_tiny", "window"), ("inline_swin_tiny", "inline_first_2"),
    ("inline_cswin_tiny", "inline"), ("inline_cswin_tiny", "stripes"), ("inline_cswin_tiny", "softmax"),
])  # fmt: skip
def test_every_mixer_runs_in_every_stage(name, mixers):
    heads = {"heads": (2, 2, 4, 4)}
    model = small(name, mixers=mixers, **heads)
    assert model(torch.randn(1, 3, 64, 70)).shape == (1, 7)
    assert model.mixers == (mixers,) * 4


def test_tables_and_the_class_token_are_not_decayed():
    assert small("inline_deit_tiny").no_weight_decay() == {"pos_embed", "cls_token"}
    assert small("inline_pvt_tiny").no_weight_decay() == {f"stages.{i}.pos_embed" for i in range(4)}
    tables = small("inline_swin_small").no_weight_decay()
    assert tables == {
        f"stages.{i}.blocks.{j}.attn.relative_position_bias_table" for i, j in ((2, 0), (2, 1), (3, 0))
    }
    assert small("inline_cswin_tiny").no_weight_decay() == set()


# --- refusals


@pytest.mark.parametrize(("name", "arguments", "message"), [
    ("deit", {"img_size": (224,)}, r"InLineDeiT: img_size must be an int or \(height, width\), got \(224,\)"),
    ("deit", {"img_size": 0}, r"InLineDeiT: img_size must be an integer of at least 1, got 0"),
    ("deit", {"num_heads": 5}, r"InLineDeiT: num_heads must divide embed_dim=192, got 5"),
    ("deit", {"depth": -1}, r"InLineDeiT: depth must be an integer of at least 0, got -1"),
    ("deit", {"patch_size": 0}, r"InLineDeiT: patch_size must be an integer of at least 1, got 0"),
    ("deit", {"mlp_ratio": 0}, r"InLineDeiT: mlp_ratio must give a hidden width of at least 1 .*, got 0"),
    ("deit", {"global_pool": "fast"}, r"InLineDeiT: global_pool must be among '', token, .*, got 'fast'"),
    ("deit", {"drop_path_rate": 1.0}, r"InLineDeiT: drop_path_rate must be a number in \[0, 1\), got 1\.0"),
    ("pvt", {"ffn_ratios": (8, 8, 4)}, r"InLinePVT: ffn_ratios must have one entry a stage \(4\)"),
    ("pvt", {"ffn_ratios": (8, 8, 4, 0)}, r"InLinePVT: ffn_ratios must give a hidden width .*, got 0"),
    ("pvt", {"img_size": "224"}, r"InLinePVT: img_size must be an integer of at least 1, got '224'"),
    ("pvt", {"heads": (3, 4, 10, 16)}, r"InLinePVT: heads must divide dim=64, got 3"),
    ("swin", {"window_size": 0}, r"InLineSwin: window_size must be an integer of at least 1, got 0"),
    ("swin", {"mixers": "inlin"}, r"mixers: must be among inline, .*, got 'inlin'; did you mean 'inline'"),
    ("swin", {"mixers": ("inline",) * 3}, r"mixers: must be one name or one a stage \(4\), got"),
    ("cswin", {"split_sizes": (1, 2, 7)}, r"InLineCSwin: split_sizes must have one entry a stage \(4\)"),
    ("cswin", {"split_sizes": (1, 2, 0, 7)}, r"InLineCSwin: split_sizes\[2\] must be an integer of at least"),
    ("cswin", {"heads": (2, 4, 1, 16)}, r"InLineCSwin: heads\[2\] must be even for stripes, got 1"),
], ids=str)  # fmt: skip
def test_a_wrong_argument_is_named_with_what_it_must_be(name, arguments, message):
    with pytest.raises(ValueError, match="^" + message):
        timm.create_model(f"inline_{name}_tiny", device="meta", **arguments)


@pytest.mark.parametrize("form", ["deit", "pvt", "swin", "cswin"])
@pytest.mark.parametrize("side", [0, 224.0, (224, -1), (1, 2, 3)], ids=str)
def test_a_refused_input_size_changes_nothing(form, side):
    model = timm.create_model(f"inline_{form}_tiny", device="meta")
    before = {k: v.shape for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"^set_input_size: img_size must be"):
        model.set_input_size(img_size=side)
    assert {k: v.shape for k, v in model.state_dict().items()} == before


@pytest.mark.parametrize("form", ["deit", "pvt", "swin", "cswin"])
@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 4, 64, 64), (1, 3, 0, 64), (0, 3, 64, 64)], ids=str)
def test_what_is_no_image_is_refused(form, shape):
    model = timm.create_model(f"inline_{form}_tiny", device="meta")
    with pytest.raises(ValueError, match=r"image must be \(B, 3, H, W\) with B, H, W > 0, got"):
        model(torch.empty(shape, device="meta"))
