"""What a user can get wrong with models and weight files: one clear error each, and nothing is changed."""

import os
import pickle
import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import linzoo.vision
from linzoo.vision.ravlt import to_official
from linzoo.vision.weights import load_official

from .slim import forms

TINY = {
    "dims": (8, 16, 24, 32),
    "depths": (1, 1, 1, 1),
    "heads": (1, 2, 2, 2),
    "neck_dim": 32,
    "num_classes": 5,
}


class Evil:
    """A pickle that would run a command when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture(scope="module")
def official():
    """A small RAVLT's weights in the authors' format."""
    model = timm.create_model("ravlt_tiny", **TINY)
    return to_official(model.state_dict(), head_dims=[8, 8, 12, 16])


def load(path, **kwargs):
    overlay = {"file": str(path), "num_classes": 5}
    return timm.create_model("ravlt_tiny", pretrained=True, pretrained_cfg_overlay=overlay, **TINY, **kwargs)


def test_a_good_file_loads(official, tmp_path):
    torch.save({"model": official}, tmp_path / "good.pth")
    model = load(tmp_path / "good.pth")
    assert torch.equal(model.state_dict()["head.bias"], official["head.bias"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_and_named(official, tmp_path, value):
    broken = {k: v.clone() for k, v in official.items()}
    broken["layers.1.blocks.0.attn.proj.weight"].view(-1)[3] = value
    torch.save(broken, tmp_path / "nan.pth")
    with pytest.raises(ValueError, match=r"finite.*stages\.1|finite.*layers\.1"):
        load(tmp_path / "nan.pth")


def test_another_models_file_is_refused(tmp_path):
    torch.save(timm.create_model("resnet10t", num_classes=5).state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"another model's file|missing"):
        load(tmp_path / "resnet.pth")


def test_another_size_is_refused_with_both_shapes(official, tmp_path):
    torch.save(official, tmp_path / "small.pth")
    overlay = {"file": str(tmp_path / "small.pth")}
    with pytest.raises(ValueError, match=r"another size|missing"):
        timm.create_model("ravlt_tiny", pretrained=True, pretrained_cfg_overlay=overlay)


def test_a_file_that_lacks_tensors_is_refused_even_with_another_classifier(official, tmp_path):
    part = {k: v for k, v in official.items() if not k.startswith("layers.3")}
    torch.save(part, tmp_path / "part.pth")
    overlay = {
        "file": str(tmp_path / "part.pth")
    }  # 1000 classes declared, 5 built: timm itself would not be strict
    with pytest.raises(ValueError, match=r"missing.*stages\.3"):
        timm.create_model("ravlt_tiny", pretrained=True, pretrained_cfg_overlay=overlay, **TINY)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(official, tmp_path, suffix):
    path = tmp_path / f"whole{suffix}"
    if suffix == ".pth":
        torch.save(official, path)
    else:
        save_file({k: v.contiguous() for k, v in official.items()}, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        load_official(path)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(official, tmp_path):
    marker = tmp_path / "ran"
    torch.save({"model": official, "extra": Evil(marker)}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="would run code"):
        load_official(tmp_path / "evil.pth")
    with pytest.raises((pickle.UnpicklingError, RuntimeError), match="weights_only"):  # timm's own path
        load(tmp_path / "evil.pth")
    assert not marker.exists()


@pytest.mark.parametrize("content", [{}, {"model": {}}, [1, 2], {"epoch": 3}])
def test_a_file_without_weights_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="checkpoint must"):
        load_official(tmp_path / "empty.pth")


def test_a_file_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        load_official(tmp_path / "none.pth")


def test_a_refused_file_leaves_a_built_model_unchanged(official):
    model = timm.create_model("ravlt_tiny", **TINY)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    broken = dict(official)
    broken["head.weight"] = broken["head.weight"] * float("nan")
    with pytest.raises(ValueError, match="finite"):
        model.load_state_dict(linzoo.vision.ravlt.checkpoint_filter_fn(broken, model))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ravlt_tiny", {"heads": (3, 2, 4, 8)}, r"heads must divide dim=64, got 3"),
        ("ravlt_tiny", {"heads": (1, 2, 4)}, r"heads must have one entry a stage \(4\)"),
        ("ravlt_tiny", {"depths": (1, 1)}, r"depths must have one entry a stage"),
        ("ravlt_tiny", {"mixers": ("liner",) * 4}, r"'liner'; did you mean 'linear'"),
        ("mala_tiny", {"mixers": "softmx"}, r"'softmx'; did you mean 'softmax'"),
        ("nalaformer_xt", {"mixers": ("linear", "softmax")}, r"one a stage \(4\)"),
        ("l2vit_tiny", {"mixers": ("alternat",) * 4}, r"'alternat'.*'alternate'"),
        ("l2vit_tiny", {"window_size": 0}, r"window_size must be .*, got 0"),
        (
            "l2vit_tiny",
            {"window_size": (7, 7)},
            r"window_size must be an integer of at least 1, got \(7, 7\)",
        ),
        ("ravlt_tiny", {"neck_dim": 0}, r"neck_dim must be an integer of at least 1, got 0"),
        ("ravlt_tiny", {"layer_scale": (1.0, 1.0)}, r"layer_scale must have one entry a stage \(4\)"),
    ],
)
def test_a_wrong_argument_is_named_with_what_it_must_be(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model(name, device="meta", **arguments)


@pytest.mark.parametrize("name", ["ravlt_tiny", "l2vit_tiny"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"global_pool": ""}, r"global_pool must not be empty"),
        ({"global_pool": "mean"}, r"global_pool must be among .*, got 'mean'"),
        ({"in_chans": 0}, r"in_chans must be an integer of at least 1, got 0"),
        ({"in_chans": -3}, r"in_chans must be an integer of at least 1, got -3"),
        ({"num_classes": -1}, r"num_classes must be an integer of at least 0, got -1"),
        ({"drop_rate": 1.0}, r"drop_rate must be a number in \[0, 1\), got 1\.0"),
        ({"drop_rate": -0.1}, r"drop_rate must be a number in \[0, 1\), got -0\.1"),
        ({"drop_path_rate": 1.5}, r"drop_path_rate must be a number in \[0, 1\), got 1\.5"),
        ({"drop_path_rate": float("nan")}, r"drop_path_rate must be a number in \[0, 1\), got nan"),
        ({"dims": (1, 2, 4, 8), "heads": (1,) * 4}, r"dims\[0\] must be an integer of at least 2, got 1"),
        ({"dims": (0, 128, 256, 512)}, r"dims\[0\] must be an integer of at least 2, got 0"),
        ({"dims": (64, 0, 256, 512)}, r"dims\[1\] must be an integer of at least 1, got 0"),
        ({"dims": (64, 128.0, 256, 512)}, r"dims\[1\] must be an integer of at least 1, got 128\.0"),
        ({"dims": 64}, r"dims must be a sequence with one entry a stage, got 64"),
        ({"dims": (), "depths": (), "heads": ()}, r"dims must have at least one stage, got \(\)"),
        ({"depths": (2, -1, 2, 2)}, r"depths\[1\] must be an integer of at least 0, got -1"),
        ({"heads": (0, 2, 4, 8)}, r"heads\[0\] must be an integer of at least 1, got 0"),
        ({"ffn_ratio": 0.001}, r"ffn_ratio must give a hidden width of at least 1 for dim=\d+, got 0\.001"),
        ({"ffn_ratio": -1}, r"ffn_ratio must give a hidden width of at least 1 for dim=\d+, got -1"),
    ],
    ids=str,
)
def test_sizes_that_make_no_model_are_refused_by_both_kinds_of_model(name, arguments, message):
    with pytest.raises(ValueError, match=r"^(Pyramid|L2ViT): " + message):
        timm.create_model(name, device="meta", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"img_size": 0}, r"img_size must be an integer of at least 1, got 0"),
        ({"img_size": (224, -1)}, r"img_size must be an integer of at least 1, got -1"),
        ({"img_size": 224.0}, r"img_size must be an integer of at least 1, got 224\.0"),
        ({"img_size": (224, 224, 3)}, r"img_size must be an int or \(height, width\), got \(224, 224, 3\)"),
        ({"img_size": 224, "window_size": 0}, r"window_size must be an integer of at least 1, got 0"),
        ({"window_size": (7, 7)}, r"window_size must be an integer of at least 1, got \(7, 7\)"),
    ],
    ids=str,
)
def test_a_refused_input_size_leaves_the_windows_unchanged(arguments, message):
    model = timm.create_model("l2vit_tiny", device="meta")
    with pytest.raises(ValueError, match="set_input_size: " + message):
        model.set_input_size(**arguments)
    assert {m.window_size for m in model.modules() if hasattr(m, "window_size")} == {7}


@pytest.mark.parametrize("name", ["ravlt_tiny", "l2vit_tiny"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1,), r"num_classes must be an integer of at least 0, got -1"),
        ((2.5,), r"num_classes must be an integer of at least 0, got 2\.5"),
        ((True,), r"num_classes must be an integer of at least 0, got True"),
        ((None,), r"num_classes must be an integer of at least 0, got None"),
        ((7, ""), r"global_pool must not be empty with a classifier \(num_classes=7\)"),
        ((7, "average"), r"global_pool must be among '', avg, .*, got 'average'"),
    ],
    ids=str,
)
def test_a_refused_classifier_leaves_the_model_unchanged(name, arguments, message):
    model = timm.create_model(name, device="meta", drop_rate=0.25)
    kept = ("num_classes", "drop_rate", "global_pool", "head_drop", "head")
    before = [getattr(model, attribute) for attribute in kept]
    with pytest.raises(ValueError, match=message):
        model.reset_classifier(*arguments)
    assert all(getattr(model, attribute) is part for attribute, part in zip(kept, before, strict=True))


@pytest.mark.parametrize("name", forms())
def test_a_misspelt_keyword_is_a_type_error(name):
    with pytest.raises(TypeError, match="dorp_path_rate"):
        timm.create_model(name, device="meta", dorp_path_rate=0.1)


@pytest.mark.parametrize("name", ["ravlt_tiny", "l2vit_tiny"])
@pytest.mark.parametrize("mixer", ["zzzz", "", 3, None])
def test_nothing_is_suggested_for_a_mixer_name_that_is_near_to_none(name, mixer):
    with pytest.raises(ValueError, match="mixers: must be among") as refusal:
        timm.create_model(name, device="meta", mixers=(mixer,) * 4)
    assert "did you mean" not in str(refusal.value)


class NoRope(nn.Module):
    uses_rope = False


@pytest.mark.parametrize(
    ("name", "mixer", "error", "message"),
    [
        ("linear", NoRope, ValueError, "stand for a family's own mixer, got 'linear'"),
        ("softmax", NoRope, ValueError, "'softmax' is already taken by SoftmaxMixer"),
        ("", NoRope, ValueError, "must not be empty"),
        (3, NoRope, TypeError, "name must be a string, got 3"),
        (NoRope, NoRope, TypeError, "name must be a string, got <class"),
        ("silent", nn.Identity, TypeError, "Identity must have a class attribute uses_rope"),
        ("function", lambda x: x, TypeError, "'function' must be a subclass of nn.Module"),
    ],
    ids=("alias", "taken", "empty", "number", "class", "silent", "function"),
)
def test_a_mixer_that_cannot_be_registered_is_refused_and_not_registered(name, mixer, error, message):
    before = linzoo.vision.mixer_names()
    with pytest.raises(error, match=f"register_mixer: .*{message}"):
        linzoo.vision.register_mixer(name)(mixer)
    assert linzoo.vision.mixer_names() == before


@pytest.mark.parametrize("name", ["ravlt_tiny", "l2vit_tiny"])
@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 4, 64, 64), (1, 3, 0, 64), (1, 3, 64, 0), (0, 3, 64, 64)])
def test_a_wrong_image_is_refused_with_its_shape(name, shape):
    model = timm.create_model(name, device="meta")
    with pytest.raises(ValueError, match=re.escape(str(shape))):
        model(torch.empty(shape, device="meta"))


def test_weights_that_nobody_published_are_not_promised():
    assert not [n for n in timm.list_pretrained("mala*")] and not [
        n for n in timm.list_pretrained("nalaformer*")
    ]
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        timm.create_model("mala_tiny", pretrained=True, depths=(1, 1, 1, 1))
