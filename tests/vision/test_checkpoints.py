"""The authors' files load as they are, in every wrapper and for every use; other files are refused."""

import argparse
import copy
import importlib
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from linzoo.vision import mala, nalaformer, ravlt
from linzoo.vision.weights import load_official, unwrap

from ..parity_fill import assert_matches, condition, figures, fill, random

NAMES = ("ravlt_tiny", "mala_tiny", "nalaformer_xt")


def family(name):
    return importlib.import_module(f"linzoo.vision.{name.split('_')[0]}")


@pytest.fixture(scope="module")
def official():
    """Official-format weights of a variant, float32, with which its outputs are on record."""
    made = {}

    def make(name):
        if name not in made:
            record = figures(name)
            weights = condition(fill(record["state_dict"], record["keep"]), record["conditioned"])
            made[name] = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
        return dict(made[name])

    return make


def save(tmp_path, content, name="RAVLT_T.pth"):
    path = tmp_path / name
    torch.save(content, path)
    return str(path)


def pretrained(name, file, **kwargs):
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": file}, **kwargs).eval()


def recorded_case(name):
    (case,) = figures(name)["conditioned"]["cases"]
    return case, random(**case["input"]).float()


@pytest.mark.parametrize("name", NAMES)
def test_the_authors_file_gives_the_authors_logits(name, official, tmp_path):
    case, image = recorded_case(name)
    model = pretrained(name, save(tmp_path, {"model": official(name), "epoch": 299}))
    with torch.inference_mode():
        assert_matches(model(image), case["logits"], 5e-6, "logits")


def wrappers(weights):
    other = {k: torch.zeros_like(v) for k, v in weights.items()}
    yield "bare", weights
    yield "ordered", OrderedDict(weights)
    yield "model", {"model": weights, "optimizer": {"state": {}}, "args": argparse.Namespace(lr=1e-3)}
    yield "model_ema", {"model": other, "model_ema": weights, "epoch": 3}
    yield "state_dict", {"state_dict": weights, "meta": {"epoch": 12}}
    yield "module", {"module": weights}
    yield "ddp", {"model": {f"module.{k}": v for k, v in weights.items()}}
    detector = {f"backbone.{k}": v for k, v in weights.items()}
    yield (
        "detector",
        {"state_dict": {**detector, "neck.fpn.weight": torch.ones(3), "bbox_head.w": torch.ones(2)}},
    )


@pytest.mark.parametrize(
    "wrapper", ["bare", "ordered", "model", "model_ema", "state_dict", "module", "ddp", "detector"]
)
def test_every_wrapper_of_a_file_loads_the_same_weights(wrapper, official, tmp_path):
    weights = official("ravlt_tiny")
    file = save(tmp_path, dict(wrappers(weights))[wrapper])
    expected = ravlt.from_official(weights)
    for got in (pretrained("ravlt_tiny", file).state_dict(), ravlt.from_official(load_official(file))):
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[k], v) for k, v in expected.items())


@pytest.mark.parametrize("prefix", [
    "module.", "_orig_mod.", "model.", "backbone.", "_orig_mod.module.", "module._orig_mod.", "model.module.",
    "model.backbone.", "backbone.model.", "module.model.module.", "backbone.module._orig_mod.model.",
])  # fmt: skip
def test_prefixes_are_stripped_in_any_order(prefix):
    weights = {"stem.conv0.weight": torch.ones(2), "stages.0.blocks.0.norm1.bias": torch.ones(3)}
    assert unwrap({prefix + k: v for k, v in weights.items()}).keys() == weights.keys()


def test_of_a_wrapped_detector_only_the_backbone_is_kept():
    names = ("model.module.backbone.stem.conv0.weight", "model.module.neck.fpn.weight", "model.module.head.w")
    assert unwrap({"state_dict": {k: torch.ones(1) for k in names}}).keys() == {"stem.conv0.weight"}


def test_a_prefix_that_only_some_names_have_is_kept():
    weights = {"model.weight": torch.ones(1), "head.weight": torch.ones(1)}
    assert unwrap(weights).keys() == weights.keys()


@pytest.mark.parametrize("outer", ["state_dict_ema", "model_ema", "model", "state_dict", "module"])
@pytest.mark.parametrize("inner", ["model", "state_dict"])
def test_wrappers_within_wrappers_are_opened(outer, inner):
    assert unwrap({outer: {inner: {"stem.x": torch.ones(1)}}, "epoch": 3}).keys() == {"stem.x"}


def test_safetensors_files_load_too(official, tmp_path):
    weights = official("nalaformer_xt")
    file = str(tmp_path / "weights.safetensors")
    save_file(weights, file)
    got = pretrained("nalaformer_xt", file).state_dict()
    assert all(torch.equal(got[k], v) for k, v in nalaformer.from_official(weights).items())
    assert load_official(file).keys() == weights.keys()


def test_another_class_count_keeps_everything_but_the_classifier(official, tmp_path):
    weights = official("ravlt_tiny")
    model = pretrained("ravlt_tiny", save(tmp_path, weights), num_classes=10)
    assert model.head.weight.shape == (10, 1024)
    expected = ravlt.from_official(weights)
    got = model.state_dict()
    assert all(torch.equal(got[k], v) for k, v in expected.items() if not k.startswith("head."))
    headless = pretrained("ravlt_tiny", save(tmp_path, weights), num_classes=0)
    case, image = recorded_case("ravlt_tiny")
    with torch.inference_mode():
        assert_matches(headless(image), case["pooled"], 5e-6, "pooled")


def test_features_only_loads_the_file_and_gives_the_authors_stages(official, tmp_path):
    file = save(tmp_path, official("ravlt_tiny"))
    model = pretrained("ravlt_tiny", file, features_only=True)
    case, image = recorded_case("ravlt_tiny")
    with torch.inference_mode():
        for i, feature in enumerate(model(image)):
            assert_matches(feature, case[f"stage{i}"], 5e-6, f"stage{i}", 4)
    two = pretrained("ravlt_tiny", file, features_only=True, out_indices=(0, 2))
    with torch.inference_mode():
        maps = two(image)
    assert len(maps) == 2
    assert_matches(maps[1], case["stage2"], 5e-6, "stage2", 4)


def test_a_features_only_wrapper_loads_official_files_after_it_was_made(official):
    weights = official("ravlt_tiny")
    wrapper = timm.create_model("ravlt_tiny", features_only=True, out_indices=(1,))
    wrapper.load_state_dict(ravlt.checkpoint_filter_fn({"model": weights}, wrapper), strict=True)
    expected = ravlt.from_official(weights)
    assert all(torch.equal(v, expected[k.removeprefix("model.")]) for k, v in wrapper.state_dict().items())


def test_one_input_channel_sums_the_colour_filters(official, tmp_path):
    weights = official("ravlt_tiny")
    model = pretrained("ravlt_tiny", save(tmp_path, weights), in_chans=1)
    expected = weights["patch_embed.proj.0.weight"].sum(1, keepdim=True)
    assert torch.allclose(model.stem.conv0.weight, expected, atol=1e-6)
    grey = torch.randn(1, 1, 64, 64)
    colour = pretrained("ravlt_tiny", save(tmp_path, weights))
    with torch.inference_mode():
        assert torch.allclose(model(grey), colour(grey.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_official_files_written_back_are_the_files_that_were_read(name, official, tmp_path):
    weights = official(name)
    convert = family(name)
    back = convert.to_official(convert.from_official(weights))
    assert back.keys() == weights.keys()
    for key, tensor in weights.items():
        assert torch.equal(back[key], tensor) and back[key].shape == tensor.shape, key
    file = save(tmp_path, pretrained(name, save(tmp_path, weights)).state_dict(), "ours.pth")
    again = pretrained(name, file).state_dict()  # our own names load the same way
    assert all(torch.equal(again[k], v) for k, v in convert.from_official(weights).items())


def test_every_variant_writes_the_official_names_and_shapes():
    for convert in (ravlt, mala, nalaformer):
        for name in convert.VARIANTS:
            ours = timm.create_model(name, device="meta").state_dict()
            shapes = {k: list(v.shape) for k, v in convert.to_official(ours).items()}
            assert shapes == figures(name)["state_dict"], name


def test_sizes_of_ones_own_need_head_widths_to_be_written():
    model = timm.create_model("ravlt_tiny", device="meta", depths=(1, 1, 1, 1))
    with pytest.raises(ValueError, match="head_dims must be given for a model that is not published"):
        ravlt.to_official(model.state_dict())
    assert ravlt.to_official(model.state_dict(), (64,) * 4)["layers.3.RoPE.angle"].shape == (32,)


def test_other_rotary_angles_in_a_file_are_told(official):
    weights = official("ravlt_tiny")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ravlt.from_official(weights)  # the published ones: no word
    weights["layers.1.RoPE.angle"] = weights["layers.1.RoPE.angle"] * 2
    with pytest.warns(UserWarning, match=r"layers\.1\.RoPE\.angle differs from the published rotary angles"):
        assert not any("RoPE" in key for key in ravlt.from_official(weights))


def test_detection_norms_are_renamed_and_left_out_of_a_backbone(official):
    weights = {
        k: v for k, v in official("ravlt_tiny").items() if not k.startswith(("proj.", "norm.", "head."))
    }
    weights.update({f"extra_norms.{i}.norm.weight": torch.ones(2) for i in range(4)})
    assert "out_norms.3.weight" in ravlt.from_official(weights)
    wrapper = timm.create_model("ravlt_tiny", features_only=True)
    wrapper.load_state_dict(ravlt.checkpoint_filter_fn({"state_dict": weights}, wrapper), strict=True)
    assert "neck.proj.weight" not in ravlt.checkpoint_filter_fn(weights, timm.create_model("ravlt_tiny"))


@pytest.mark.parametrize("name", NAMES)
def test_models_saved_for_the_hub_come_back_from_a_folder(name, tmp_path):
    options = {"num_classes": 4, "mixers": ("linear", "softmax", "linear", "softmax"), "drop_path_rate": 0.3}
    model = timm.create_model(name, in_chans=1, **options).eval()
    timm.models.save_for_hf(model, tmp_path, safe_serialization="both")
    back = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    image = torch.randn(1, 1, 64, 40)
    with torch.inference_mode():
        assert torch.equal(back(image), model(image))
    assert back.mixers == model.mixers


@pytest.mark.parametrize("name", [*NAMES, "l2vit_tiny"])
def test_checkpoint_path_takes_the_authors_file(name, official, tmp_path):
    weights = official(name)
    file = save(tmp_path, {"model": weights, "args": argparse.Namespace(lr=1e-3)})
    got = timm.create_model(name, checkpoint_path=file).state_dict()
    expected = family(name).from_official(weights)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[k], v) for k, v in expected.items())


def test_load_state_dict_takes_the_authors_names_also_inside_another_model_and_after_a_copy(official):
    weights = official("ravlt_tiny")
    expected = ravlt.from_official(weights)
    for model in (timm.create_model("ravlt_tiny"), copy.deepcopy(timm.create_model("ravlt_tiny"))):
        outer = torch.nn.ModuleDict({"backbone": model, "other": torch.nn.Linear(2, 2)})
        given = {f"backbone.{k}": v for k, v in weights.items()} | {
            k: v for k, v in outer.state_dict().items() if k.startswith("other.")
        }
        before = dict(given)
        outer.load_state_dict(given)
        assert given.keys() == before.keys() and all(given[k] is before[k] for k in before), (
            "the caller's mapping is not changed"
        )
        assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())


def test_load_state_dict_refuses_nan_under_the_authors_names_and_takes_it_under_ours(official):
    weights = official("ravlt_tiny")
    weights["norm.bias"] = weights["norm.bias"] * float("nan")
    model = timm.create_model("ravlt_tiny")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"must be finite, got NaN or Inf in 1 of \d+ tensors \(first: norm.b"
    ):
        model.load_state_dict(weights)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    model.load_state_dict(ravlt.from_official(weights))  # a run that is resumed may hold anything
    assert model.neck.norm.bias.isnan().all()


# --- refusals


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["official", "ours"])
def test_weights_that_are_not_finite_are_refused(value, kind, official, tmp_path):
    weights = official("ravlt_tiny")
    key = "layers.2.blocks.1.ffn.fc1.weight"
    weights[key] = weights[key].clone()
    weights[key][0, 0] = value
    if kind == "ours":
        weights = ravlt.from_official(weights)
    with pytest.raises(
        ValueError, match=r"must be finite, got NaN or Inf in 1 of \d+ tensors \(first: .*fc1"
    ):
        pretrained("ravlt_tiny", save(tmp_path, weights))


def test_a_file_of_another_model_is_refused(tmp_path):
    other = timm.create_model("resnet10t").state_dict()
    with pytest.raises(ValueError, match="checkpoint must hold names of the model"):
        pretrained("ravlt_tiny", save(tmp_path, other))


@pytest.mark.parametrize("name, other", [("ravlt_tiny", "nalaformer_xt"), ("nalaformer_xt", "ravlt_tiny")])
def test_a_file_of_another_family_is_refused(name, other, official, tmp_path):
    with pytest.raises(ValueError, match="keys must be official names, got 'layers"):
        pretrained(name, save(tmp_path, official(other)))


def test_a_file_of_another_size_is_refused(official, tmp_path):
    file = save(tmp_path, official("mala_tiny"))
    with pytest.raises(ValueError, match=r"must have shape \(1024, 512\), got \(2048, 512\): another size"):
        pretrained("mala_tiny", file, neck_dim=1024)
    with pytest.raises(ValueError, match=r"are missing \(first: stages"):
        pretrained("mala_small", file)
    with pytest.raises(
        ValueError, match=r"must hold only tensors of the model, got \d+ others \(first: stages"
    ):
        pretrained("mala_tiny", file, depths=(1, 1, 1, 1))


def test_a_state_dict_that_lacks_tensors_is_refused(official, tmp_path):
    weights = dict(list(official("ravlt_tiny").items())[:100])
    with pytest.raises(ValueError, match=r"every tensor of the model, \d+ of \d+ are missing"):
        pretrained("ravlt_tiny", save(tmp_path, weights))


@pytest.mark.parametrize(
    "content", [{}, {"model": {}}, {"model": {"a": 3}}, [1, 2], {"stem.conv0.weight": "x"}], ids=str
)
def test_a_checkpoint_without_tensors_is_refused(content):
    with pytest.raises(ValueError, match=r"checkpoint must (be a mapping of|map) names to tensors, got"):
        unwrap(content)


def test_a_truncated_file_is_refused(official, tmp_path):
    file = tmp_path / "half.pth"
    whole = Path(save(tmp_path, official("nalaformer_xt"))).read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.pth"):
        load_official(file)
    tensors = tmp_path / "half.safetensors"
    tensors.write_bytes(whole[:100])
    with pytest.raises(ValueError, match=r"half\.safetensors"):
        load_official(tensors)
    with pytest.raises(FileNotFoundError, match=r"checkpoint must be a file, got .*absent\.pth"):
        load_official(tmp_path / "absent.pth")


class Boom:
    def __reduce__(self):
        return (open, ("boom-was-here", "w"))


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": Boom()}, protocol=2))
    save(tmp_path, {"model": Boom()}, "evil_zip.pth")
    for name in ("evil.pth", "evil_zip.pth"):
        with pytest.raises(ValueError, match="must hold only tensors and plain containers") as refusal:
            load_official(tmp_path / name)
        assert "weights_only" not in str(refusal.value), "no advice to load it all the same"
        with pytest.raises(RuntimeError, match="weights_only"):
            pretrained("ravlt_tiny", str(tmp_path / name))
    assert not (tmp_path / "boom-was-here").exists()


def test_a_refused_file_leaves_the_model_as_it_was(official):
    model = timm.create_model("ravlt_tiny")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    weights = official("ravlt_tiny")
    weights.pop("proj.weight")
    with pytest.raises(ValueError, match="missing"):
        model.load_state_dict(ravlt.checkpoint_filter_fn(weights, model))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
