"""CLEAR's weight files: the authors' names and shapes, both ways; what does not fit is refused by name."""

import json

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from linzoo.diffusion import linearize
from linzoo.diffusion.clear import convert

from ..parity_fill import figures
from .clear_cases import KINDS, call_of, model_of, normal, out_of

OFFICIAL = figures("clear_checkpoint_shapes")
WEIGHT = "spatial_weight"


def official_file(folder, name: str, factor: int = 1, **changes):
    """A file as the authors' training writes it, of a tiny FLUX, and its tensors."""
    model, seed = model_of("flux"), 0
    names = ("to_q", "to_k", "to_v", "to_out")
    tensors = {
        key: normal(*x.shape, seed=(seed := seed + 1)).float() * 0.1
        for key, x in model.state_dict().items()
        if ".attn." in key and key.split(".attn.")[1].startswith(names)
    }
    if factor > 1:
        for block in ("transformer_blocks.0", "single_transformer_blocks.0", "single_transformer_blocks.1"):
            tensors[f"{block}.attn.processor.{WEIGHT}"] = normal(1, 1, 1, factor, 1, factor, 1).float()
    tensors = {key: x for key, x in {**tensors, **changes}.items() if x is not None}
    save_file(tensors, folder / name)
    return folder / name, tensors


@pytest.mark.parametrize("factor", [1, 4])
def test_flux_dev_trains_the_380_tensors_of_the_published_files(factor):
    with torch.device("meta"):
        model = FluxTransformer2DModel(guidance_embeds=True)
    handle = linearize(model, "clear", radius=8, down_factor=factor)
    shapes = {key: list(x.shape) for key, x in convert.to_official(handle.state_dict()).items()}
    pooling = {key: shape for key, shape in shapes.items() if key.endswith(WEIGHT)}
    assert {k: v for k, v in shapes.items() if k not in pooling} == OFFICIAL["shapes"]
    count = sum(p.numel() for key, p in handle.parameters().items() if not key.endswith(WEIGHT))
    assert (
        (len(shapes) - len(pooling), count) == (OFFICIAL["count"], OFFICIAL["params"]) == (380, 1_793_648_640)
    )
    assert len(pooling) == (57 if factor > 1 else 0)
    assert all(key.endswith(".attn.processor.spatial_weight") for key in pooling)
    assert all(shape == [1, 1, 1, 4, 1, 4, 1] for shape in pooling.values())


@pytest.mark.parametrize(("name", "factor"), [("clear_local_8", 1), ("clear_local_16_down_2", 2)])
def test_an_official_file_loads_with_the_options_of_its_name_and_tensors(name, factor, tmp_path):
    path, tensors = official_file(tmp_path, f"{name}.safetensors", factor)
    model = model_of("flux")
    handle = linearize(model, "clear", weights=path)
    assert (handle.options.radius, handle.options.down_factor) == (8 if factor == 1 else 16, factor)
    state = model.state_dict()
    for key, tensor in tensors.items():
        assert torch.equal(state[key.replace(".processor.", ".")].float(), tensor)
    handle.unlinearize()
    before = model_of("flux").state_dict()
    assert all(torch.equal(x, before[key]) for key, x in model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", [{}, {"down_factor": 2}, {"pooled_tokens": (2, 3)}])
def test_a_saved_swap_comes_back_to_the_last_bit_with_its_options(kind, pooling, tmp_path):
    model, call = model_of(kind), call_of(kind, (4, 4))
    options = dict(radius=2.5, proportional_attention=True, **pooling)
    handle = linearize(model, "clear", init="random", **options)
    for parameter in handle.parameters().values():
        parameter.data.add_(normal(*parameter.shape), alpha=0.01)
    handle.save_pretrained(tmp_path)
    again = model_of(kind)
    assert linearize(again, "clear", weights=tmp_path).options == handle.options
    assert torch.equal(out_of(again, call), out_of(model, call))


def test_saved_files_have_the_authors_names_and_keys(tmp_path):
    handle = linearize(model_of("flux"), "clear", radius=16, down_factor=4)
    handle.save_pretrained(tmp_path)
    _, official = official_file(tmp_path.parent, "clear_local_16_down_4.safetensors", 4)
    saved = load_file(tmp_path / "clear_local_16_down_4.safetensors")
    assert {k: x.shape for k, x in saved.items()} == {k: x.shape for k, x in official.items()}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {
        "method": "clear",
        "radius": 16,
        "down_factor": 4,
        "pooled_tokens": None,
        "proportional_attention": False,
        "ntk_factor": 1.0,
    }


def test_options_that_shape_no_weights_are_the_callers_and_else_the_files(tmp_path):
    linearize(model_of("flux"), "clear", radius=4, ntk_factor=10).save_pretrained(tmp_path)
    assert linearize(model_of("flux"), "clear", weights=tmp_path).options.ntk_factor == 10
    options = linearize(model_of("flux"), "clear", weights=tmp_path, ntk_factor=1, radius=4).options
    assert (options.ntk_factor, options.radius) == (1, 4)


def test_in_a_folder_of_all_published_files_the_options_choose(tmp_path):
    for name, factor in (("8", 1), ("16", 1), ("8_down_2", 2)):
        official_file(tmp_path, f"clear_local_{name}.safetensors", factor)
    for words in ({"radius": 8}, {"radius": 8, "down_factor": 2}, {}):
        options = linearize(model_of("flux"), "clear", weights=tmp_path, **words).options
        assert (options.radius, options.down_factor) == (words.get("radius", 16), words.get("down_factor", 1))
    with pytest.raises(ValueError, match=r"holds clear_local_32\.safetensors"):
        linearize(model_of("flux"), "clear", weights=tmp_path, radius=32)


BIAS, WEIGHTS = "transformer_blocks.0.attn.to_q.bias", "transformer_blocks.0.attn.to_q.weight"
PROCESSOR = f"single_transformer_blocks.0.attn.processor.{WEIGHT}"
FAULTS = {
    "another radius": (("clear_local_8", 1, {}), {"radius": 16}, "radius must be 8.*name.*the call says 16"),
    "another factor": (
        ("clear_local_8_down_2", 2, {}),
        {"down_factor": 4},
        "down_factor must be 2.*call says 4",
    ),
    "name against tensors": (("clear_local_8_down_4", 2, {}), {}, "down_factor must be 4.*shape.*says 2"),
    "pooled name without weights": (("clear_local_8_down_2", 1, {}), {}, "down_factor must be 2.*says 1"),
    "unknown radius": (("mine", 1, {}), {}, "radius must be given, neither the name"),
    "other areas": (
        ("clear_local_8_pooled_3x2", 1, {}),
        {"pooled_tokens": (4, 4)},
        r"pooled_tokens must be \(3, 2\).*the call says \(4, 4\)",
    ),
    "missing": (("clear_local_8", 1, {BIAS: None}), {}, f"1 missing: {BIAS}"),
    "unexpected": (("clear_local_8", 1, {"x.weight": torch.ones(1)}), {}, "1 unexpected: x.weight"),
    "shape": (
        ("clear_local_8", 1, {WEIGHTS: torch.ones(32, 8)}),
        {},
        r"to_q.weight is \(32, 8\), must be \(32, 32\)",
    ),
    "one pooling weight less": (
        ("clear_local_8_down_2", 2, {PROCESSOR: None}),
        {},
        "missing: single_transformer_blocks.0.attn.spatial_weight",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_does_not_fit_is_refused_by_name_and_the_model_stays(name, tmp_path):
    (file, factor, changes), words, message = FAULTS[name]
    path, _ = official_file(tmp_path, f"{file}.safetensors", factor, **changes)
    model = model_of("flux")
    before = {key: x.clone() for key, x in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        linearize(model, "clear", weights=path, **words)
    assert type(model) is FluxTransformer2DModel
    assert all(torch.equal(x, before[key]) for key, x in model.state_dict().items())


def test_an_unnamed_file_loads_when_the_radius_is_given(tmp_path):
    path, _ = official_file(tmp_path, "mine.safetensors", 2)
    options = linearize(model_of("flux"), "clear", weights=path, radius=5).options
    assert (options.radius, options.down_factor) == (5, 2)


def test_published_weights_may_start_a_variant_with_areas(tmp_path):
    path, _ = official_file(tmp_path, "clear_local_8.safetensors")
    options = linearize(model_of("flux"), "clear", weights=path, pooled_tokens=(4, 4)).options
    assert (options.radius, options.pooled_tokens) == (8, (4, 4))


def test_what_was_saved_last_is_what_a_folder_holds(tmp_path):
    for radius in (8, 16, 4):
        linearize(model_of("flux"), "clear", radius=radius).save_pretrained(tmp_path)
    assert linearize(model_of("flux"), "clear", weights=tmp_path).options.radius == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"method": "lit"}', "must be those of method='clear', .* says 'lit'"), ("{", "cannot be read")],
)
def test_a_config_of_another_method_is_refused(text, message, tmp_path):
    path, _ = official_file(tmp_path, "clear_local_8.safetensors")
    path.with_name("config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        linearize(model_of("flux"), "clear", weights=path)
    path.with_name("config.json").write_text('{"of": "somebody else"}')
    assert linearize(model_of("flux"), "clear", weights=path).options.radius == 8


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Repositories as folders; what was asked for is listed."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    asked = []

    def download(repo, file, **_):
        asked.append((repo, file))
        path = tmp_path / repo.replace("/", "--") / file
        if not path.is_file():
            raise EntryNotFoundError.__new__(EntryNotFoundError)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return tmp_path, asked


def test_official_fetches_the_file_of_the_options(hub):
    folder, asked = hub
    (folder / "Huage001--CLEAR").mkdir()
    for name, factor in (("16", 1), ("8_down_4", 4)):
        official_file(folder / "Huage001--CLEAR", f"clear_local_{name}.safetensors", factor)
    assert linearize(model_of("flux"), "clear", weights="official").options.radius == 16
    words = dict(radius=8, down_factor=4)
    assert linearize(model_of("flux"), "clear", weights="Huage001/CLEAR", **words).options.down_factor == 4
    wanted = {("Huage001/CLEAR", f"clear_local_{name}.safetensors") for name in ("16", "8_down_4")}
    assert {pair for pair in asked if pair[1] != "config.json"} == wanted


def test_a_repository_of_ones_own_is_read_by_its_config(hub):
    folder, _ = hub
    handle = linearize(model_of("sd3"), "clear", radius=4, pooled_tokens=(3, 3))
    handle.save_pretrained(folder / "me--clear-sd3")
    assert linearize(model_of("sd3"), "clear", weights="me/clear-sd3").options == handle.options


def test_what_was_never_published_is_not_promised():
    with pytest.raises(
        ValueError, match=r"no weights for radius=16 down_factor=2; it has radius=8, .*radius=16 "
    ):
        linearize(model_of("flux"), "clear", weights="official", down_factor=2)
    for kind in ("sd3", "dit"):
        with pytest.raises(
            ValueError, match=r"weights='official' are for Flux.*published weights for FLUX\.1-dev"
        ):
            linearize(model_of(kind), "clear", weights="official")
