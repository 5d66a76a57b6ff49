"""LiT's files: a trained model comes back with its options, and what does not fit is named."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

diffusers = pytest.importorskip("diffusers", reason="needs diffusers")

from linzoo.diffusion import linearize, unlinearize  # noqa: E402

from .pipelines import build  # noqa: E402

OPTIONS = {
    "heads": 2,
    "kernel_size": 3,
    "conv_on": "x",
    "conv_init": "random",
    "eps": 1e-3,
    "eps_on": "mean",
    "inherit": "v",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A pipeline all of whose weights were trained after the swap, and the folder it was saved to."""
    folder = tmp_path_factory.mktemp("lit")
    tiny = build("pixart_sigma")
    handle = linearize(tiny.pipe, "lit", **OPTIONS)
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in tiny.model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    handle.save_pretrained(folder)
    return tiny, folder


def changed(folder, to, *, config=None, drop=(), add=None):
    """A copy of the folder with other options or tensors."""
    words = json.loads((folder / "config.json").read_text()) | (config or {})
    tensors = {n: x for n, x in load_file(folder / "lit.safetensors").items() if n not in drop} | (add or {})
    (to / "config.json").write_text(json.dumps(words))
    save_file(tensors, to / "lit.safetensors")
    return to


@pytest.mark.parametrize("file", ["", "lit.safetensors"])
def test_a_trained_model_comes_back_from_its_folder_with_its_options(trained, file):
    was, folder = trained
    tiny = build("pixart_sigma", seed=1)  # other weights everywhere
    handle = linearize(tiny.pipe, "lit", weights=folder / file)
    assert {name: getattr(handle.options, name) for name in OPTIONS} == OPTIONS
    assert torch.equal(tiny.run(output_type="latent"), was.run(output_type="latent"))


def test_unlinearize_gives_back_what_loading_replaced(trained):
    tiny = build("pixart_sigma", seed=1)
    before, weights = tiny.run(), {n: x.clone() for n, x in tiny.model.state_dict().items()}
    linearize(tiny.pipe, "lit", weights=trained[1])
    unlinearize(tiny.pipe)
    assert torch.equal(tiny.run(), before)
    after = tiny.model.state_dict()
    assert list(after) == list(weights) and all(torch.equal(after[n], weights[n]) for n in weights)


def test_tensors_of_the_attentions_alone_are_taken_too(trained, tmp_path):
    was, folder = trained
    rest = {name for name, _ in was.model.named_parameters() if ".attn1." not in name}
    tiny = build("pixart_sigma", seed=1)
    kept = {name: tiny.model.get_parameter(name).clone() for name in rest}
    linearize(tiny.pipe, "lit", weights=changed(folder, tmp_path, drop=rest))
    for name, parameter in tiny.model.named_parameters():
        assert torch.equal(parameter, kept[name] if name in rest else was.model.get_parameter(name)), name


CONV = "transformer_blocks.0.attn1.conv.weight"
FAULTS = [
    ({"drop": ("transformer_blocks.1.attn1.conv.bias",)}, "missing: transformer_blocks.1.attn1.conv.bias"),
    ({"drop": ("transformer_blocks.1.attn1.to_k.bias",)}, "missing: transformer_blocks.1.attn1.to_k.bias"),
    ({"drop": ("proj_out.weight",)}, "missing: proj_out.weight"),
    ({"add": {"transformer_blocks.2.attn1.to_q.weight": torch.zeros(1)}}, "unexpected: transformer_blocks.2"),
    ({"add": {CONV: torch.zeros(32, 1, 5, 5)}}, f"{CONV} is (32, 1, 5, 5), must be (32, 1, 3, 3)"),
    ({"config": {"kernel_size": None}}, "unexpected: transformer_blocks.0.attn1.conv."),
    ({"config": {"heads": 3}}, "heads must divide the width 32, got 3"),
    ({"config": {"focus": 3}}, "focus is not an option of method='lit'"),
    ({"config": {"_class_name": "LinFusion"}}, "must be 'LiT', got 'LinFusion'"),
    ({"config": {"model": "DiTTransformer2DModel"}}, "of a PixArtTransformer2DModel, got those of a DiT"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[message[:40] for _, message in FAULTS])
def test_files_that_do_not_fit_are_refused_by_name_and_change_nothing(trained, tmp_path, fault, message):
    folder = changed(trained[1], tmp_path, **fault)
    tiny = build("pixart_sigma", seed=1)
    before = {n: x.clone() for n, x in tiny.model.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        linearize(tiny.pipe, "lit", weights=folder)
    assert message in str(caught.value)
    after = tiny.model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[n], before[n]) for n in before)


def test_options_that_contradict_the_files_are_refused_and_equal_ones_are_not(trained):
    folder = trained[1]
    linearize(build("pixart_sigma").pipe, "lit", weights=folder, heads=2, kernel_size=3)
    with pytest.raises(ValueError, match=r"heads must be 2, as in .*, got 4"):
        linearize(build("pixart_sigma").pipe, "lit", weights=folder, heads=4)
    with pytest.raises(ValueError, match=r"kernel_size must be 3, as in .*, got 0"):
        linearize(build("pixart_sigma").pipe, "lit", weights=folder, kernel_size=0)


def test_tensors_without_options_beside_them_are_refused(trained, tmp_path):
    alone = tmp_path / "some.safetensors"
    alone.write_bytes((trained[1] / "lit.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"must have their options beside them, .*config.json is missing"):
        linearize(build("pixart_sigma").pipe, "lit", weights=alone)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json must be JSON"):
        linearize(build("pixart_sigma").pipe, "lit", weights=alone)


def test_diffusers_does_not_take_the_folder_for_a_softmax_model(trained):
    with pytest.raises(OSError, match="no file named"):
        diffusers.PixArtTransformer2DModel.from_pretrained(trained[1])


def test_lora_weights_on_the_model_are_not_saved_as_if_they_were_its_own(tmp_path):
    peft = pytest.importorskip("peft", reason="needs peft")
    model = build("pixart_sigma").model
    handle = linearize(model, "lit")
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["attn2.to_q"]), model)
    with pytest.raises(ValueError, match="LoRA weights lie on the model: merge or remove them"):
        handle.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
