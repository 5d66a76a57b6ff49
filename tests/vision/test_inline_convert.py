"""InLine's files: the authors' names and shapes of the four forms, both ways, and through timm."""

import pytest
import timm
import torch

from linzoo.cli import main
from linzoo.vision import inline
from linzoo.vision.weights import load_official

from ..parity_fill import figures
from .slim import narrow
from .test_inline import RECORDED, slim

FORMS = ("inline_deit_tiny", "inline_pvt_tiny", "inline_swin_small", "inline_cswin_tiny")
every_form = pytest.mark.parametrize("name", FORMS)


def small(name, **kwargs):
    torch.manual_seed(1)
    return timm.create_model(name, **{**narrow(name), **slim(name), **kwargs})


@pytest.mark.parametrize("variant", RECORDED)
def test_names_and_shapes_of_a_converted_model_are_those_of_the_authors_code(variant):
    record = figures(f"inline_{variant}")["describe"]["state_dict"]
    ours = timm.create_model(f"inline_{variant}", device="meta").state_dict()
    theirs = inline.to_official(ours)
    assert {k: list(v.shape) for k, v in theirs.items()} == record
    back = inline.from_official(theirs)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in ours.items()}


@pytest.mark.parametrize("name", inline.VARIANTS)
def test_every_variant_goes_to_the_authors_names_and_back_with_its_numbers(name):
    ours = small(name).state_dict()
    back = inline.from_official(inline.to_official(ours))
    assert back.keys() == ours.keys() and all(torch.equal(back[k], ours[k]) for k in ours)


def test_swins_buffers_are_made_again_for_the_size_that_its_windows_are_published_with():
    theirs = inline.to_official(small("inline_swin_base_384", depths=(1, 1, 4, 2)).state_dict())
    masks = {k: v for k, v in theirs.items() if k.endswith("attn_mask")}
    assert set(masks) == {"layers.2.blocks.3.attn_mask"}  # stage 3 is one window, even blocks do not shift
    mask = masks["layers.2.blocks.3.attn_mask"]
    assert mask.shape == (4, 144, 144) and set(mask.unique().tolist()) == {-100.0, 0.0}
    assert (mask[0] == 0).all() and (mask[3] != 0).any()
    index = theirs["layers.3.blocks.1.attn.relative_position_index"]
    assert index.shape == (144, 144) and index[0, 0] == 11 * 23 + 11 and index.max() == 23 * 23 - 1


@every_form
@pytest.mark.parametrize("wrapper", ["model", "model_ema", "state_dict_ema", None])
def test_a_file_of_the_authors_loads_through_timm(name, wrapper, tmp_path):
    official = inline.to_official(small(name).state_dict())
    content = {wrapper: official, "epoch": 3} if wrapper else official
    if wrapper and "ema" in wrapper:
        content["model"] = {k: torch.zeros_like(v) for k, v in official.items()}
    torch.save(content, tmp_path / "file.pth")
    overlay = {"file": str(tmp_path / "file.pth"), "num_classes": 7}
    loaded = small(name, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    expected = inline.from_official(official)
    assert all(torch.equal(loaded[k], expected[k]) for k in loaded)


@every_form
def test_load_state_dict_takes_the_authors_names(name):
    source, target = small(name).eval(), small(name, drop_path_rate=0.5).eval()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.01)
    target.load_state_dict(inline.to_official(source.state_dict()), strict=True)
    x = torch.randn(1, 3, 64, 96)
    assert torch.equal(target(x), source(x))


@every_form
def test_the_authors_weights_serve_other_heads_channels_and_features(name, tmp_path):
    torch.save({"model": inline.to_official(small(name).state_dict())}, tmp_path / "file.pth")
    given = {
        "pretrained": True,
        "pretrained_cfg_overlay": {"file": str(tmp_path / "file.pth"), "num_classes": 7},
    }
    x = torch.randn(1, 3, 64, 64)
    full = small(name, **given).eval()
    body, maps = full.forward_intermediates(x)
    other = small(name, **{**given, "num_classes": 10}).eval()
    assert other(x).shape == (1, 10)
    torch.testing.assert_close(other.forward_features(x), body)
    features = small(name, **given, features_only=True, out_indices=(0, 2)).eval()
    for got, want in zip(features(x), (maps[0], maps[2]), strict=True):
        torch.testing.assert_close(got, want)
    grey = small(name, **given, in_chans=1).eval()
    first = f"{full.first_conv}.weight"
    torch.testing.assert_close(
        grey.state_dict()[first], full.state_dict()[first].sum(1, keepdim=True), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", [name.replace("swin_small", "swin_tiny") for name in FORMS])
def test_convert_writes_the_authors_names_and_reads_them_again(name, tmp_path):
    official = inline.to_official(timm.create_model(name).state_dict())
    torch.save({"model": official}, tmp_path / "theirs.pth")
    ours, again = tmp_path / "ours.safetensors", tmp_path / "again.pth"
    assert main(["convert", str(tmp_path / "theirs.pth"), str(ours), "-m", name, "--to", "linzoo"]) == 0
    assert main(["convert", str(ours), str(again), "-m", name, "--to", "official"]) == 0
    back = load_official(again)
    assert back.keys() == official.keys() and all(torch.equal(back[k], official[k]) for k in back)


def test_half_of_a_pvts_queries_is_refused():
    official = inline.to_official(small("inline_pvt_tiny").state_dict())
    del official["block1.0.attn.kv.weight"]
    with pytest.raises(
        ValueError, match=r"block1\.0\.attn\.q\.weight must come with block1\.0\.attn\.kv\.weight"
    ):
        inline.from_official(official)


@every_form
def test_another_form_is_refused(name):
    official = inline.to_official(small(name).state_dict())
    other = small(FORMS[FORMS.index(name) - 1])
    with pytest.raises(ValueError, match=r"missing|another model's file"):
        inline.checkpoint_filter_fn(official, other)
