"""Files and the Hub: what a swapped model may be saved as, whole pipelines, single-file checkpoints."""

import json

import pytest
import torch

pytest.importorskip("diffusers")

import huggingface_hub
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.utils import hub_utils
from safetensors.torch import load_file, save_file

from linzoo.diffusion import LinFusion, linearize
from linzoo.diffusion.handle import load_pipeline

from .pipelines import build
from .slow_forms import disturb

SWAPS = {
    "sd": ("sd", "linfusion", {}),
    "sdxl": ("sdxl", "linfusion", {"projection_mid_dim": 8}),
    "flux": ("flux", "clear", {"radius": 3}),
    "flux_pooled": ("flux", "clear", {"radius": 3, "down_factor": 4}),
    "sd3": ("sd3", "clear", {"radius": 3.5}),
    "dit": ("dit", "lit", {"heads": 2, "conv_on": "x"}),
    "pixart_sigma": ("pixart_sigma", "lit", {"heads": 2, "inherit": "qkv"}),
}


def swapped(name: str):
    kind, method, options = SWAPS[name]
    tiny = build(kind)
    handle = linearize(tiny.pipe, method, **options)
    disturb(handle)
    return tiny, handle


@pytest.mark.parametrize("name", ["sd", "flux", "sd3", "dit", "pixart_sigma"])
def test_saving_a_swapped_model_as_a_softmax_one_is_refused(name, tmp_path):
    tiny, _ = swapped(name)
    for save in (tiny.model.save_pretrained, tiny.pipe.save_pretrained):
        with pytest.raises(ValueError, match=r"handle\.save_pretrained\(.*handle\.save_pipeline\("):
            save(tmp_path / "model")
    written = {path.parent.name for path in tmp_path.rglob("*.safetensors")}
    assert written <= {"vae"}  # which the pipeline saves first
    assert not list(tmp_path.rglob("model_index.json"))


@pytest.mark.parametrize("name", SWAPS)
def test_a_saved_swap_comes_back_with_its_options_and_its_images(name, tmp_path):
    kind, method, _ = SWAPS[name]
    tiny, handle = swapped(name)
    handle.save_pretrained(tmp_path / "swap")
    twin = build(kind)
    again = linearize(twin.pipe, method, weights=tmp_path / "swap")
    assert again.options == handle.options
    assert torch.equal(twin.run(), tiny.run())


@pytest.mark.parametrize("name", SWAPS)
def test_a_whole_pipeline_is_saved_with_the_softmax_model_intact(name, tmp_path):
    tiny, handle = swapped(name)
    before = tiny.run()
    handle.save_pipeline(tmp_path)
    assert torch.equal(tiny.run(), before)  # saving leaves it swapped
    absent = {part: None for part, module in tiny.pipe.components.items() if module is None}
    tiny.pipe = quiet(load_pipeline(tmp_path, **absent))
    assert torch.equal(tiny.run(), before)
    tiny.pipe = quiet(DiffusionPipeline.from_pretrained(tmp_path, **absent))  # without linzoo, as it was
    assert torch.equal(tiny.run(), build(SWAPS[name][0]).run())


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("context, repository", [(768, "1-5"), (1024, "2-1"), (2048, "XL")])
def test_a_unet_from_a_single_file_is_known_by_its_config(context, repository, tmp_path, monkeypatch):
    model = build("sd", cross_attention_dim=context).model
    model.save_config(tmp_path)
    save_file(model.state_dict(), tmp_path / "checkpoint.safetensors")
    unet = UNet2DConditionModel.from_single_file(tmp_path / "checkpoint.safetensors", config=str(tmp_path))
    assert not unet.config.get("_name_or_path", "").startswith("Yuanshi")
    asked = []

    def download(repo_id, filename, **_):
        asked.append((repo_id, filename))
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network in tests")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(huggingface_hub.errors.LocalEntryNotFoundError):
        linearize(unet, "linfusion", weights="official")
    assert {repo_id for repo_id, _ in asked} == {f"Yuanshi/LinFusion-{repository}"}
    assert type(unet) is UNet2DConditionModel  # nothing has changed
    linearize(unet, "linfusion")


def test_the_hub_gets_the_authors_files_and_nothing_of_the_softmax_model(monkeypatch):
    tiny, handle = swapped("sd")
    calls = []

    class Hub:
        def __init__(self, **words):
            calls.append(("login", words))

        def create_repo(self, repo_id, **words):
            calls.append(("create", words | {"repo_id": repo_id}))
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, repo_id, folder_path, **_):
            from pathlib import Path

            files = {path.name: path.read_bytes() for path in Path(folder_path).rglob("*") if path.is_file()}
            calls.append(("upload", {"repo_id": repo_id, "files": files}))
            return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(hub_utils, "create_repo", Hub().create_repo)
    with pytest.raises(ValueError, match=r"handle\.push_to_hub"):
        tiny.model.push_to_hub("me/unet")
    with pytest.raises(ValueError, match=r"handle\.save_pretrained"):
        tiny.pipe.push_to_hub("me/pipeline")
    assert not any(name == "upload" for name, _ in calls)
    calls.clear()
    handle.push_to_hub("me/linfusion", private=True, token="secret")
    assert [name for name, _ in calls] == ["login", "create", "upload"]
    assert calls[0][1]["token"] == "secret"
    assert calls[1][1]["private"] is True
    files = calls[2][1]["files"]
    assert {"config.json", "diffusion_pytorch_model.safetensors"} <= set(files)
    assert json.loads(files["config.json"])["_class_name"] == "LinFusion"


def test_the_authors_call_and_ours_give_the_same_images(tmp_path):
    tiny, handle = swapped("sd")
    handle.save_pretrained(tmp_path)
    twin = build("sd")
    LinFusion.construct_for(twin.pipe, pretrained_model_name_or_path=tmp_path)
    assert torch.equal(twin.run(), tiny.run())


def test_a_pipeline_with_no_name_and_no_family_says_so_in_the_authors_call():
    tiny = build("sd")  # built in memory, cross_attention_dim 32
    with pytest.raises(ValueError, match="cross_attention_dim 768, 1024 or 2048"):
        LinFusion.construct_for(tiny.pipe)
    LinFusion.construct_for(unet=tiny.model, load_pretrained=False)


def test_a_state_dict_of_the_whole_model_goes_around_as_in_any_module(tmp_path):
    """Trainers checkpoint ``model.state_dict()``; into another swapped model it loads strictly."""
    tiny, _ = swapped("sd")
    file = tmp_path / "state.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tiny.model.state_dict().items()}, file)
    twin, _ = swapped("sd")
    twin.model.load_state_dict(load_file(file))
    assert torch.equal(twin.run(), tiny.run())
    with pytest.raises(RuntimeError, match="to_q_"):  # a softmax model refuses it loudly
        build("sd").model.load_state_dict(tiny.model.state_dict())
