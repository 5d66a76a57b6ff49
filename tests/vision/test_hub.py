"""Publishing with timm's own calls and loading back, without a network: one model of every form."""

import json
import shutil
from types import SimpleNamespace

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import _hub as timm_hub
from timm.models import push_to_hf_hub, save_for_hf

from .slim import FAMILY_OF, forms, narrow, slim_depths

every_form = pytest.mark.parametrize("name", forms())


class Hub:
    """What of the hub timm's calls use: a repository is a folder."""

    def __init__(self, root):
        self.root = root
        self.downloads = []

    def create_repo(self, repo_id, private=False, exist_ok=False):
        assert exist_ok
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(repo_id=repo_id)

    def file_exists(self, repo_id, filename, revision=None):
        return (self.root / repo_id / filename).exists()

    def upload_folder(self, repo_id, folder_path, revision=None, create_pr=False, commit_message=""):
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def download(self, repo_id, filename, **_):
        self.downloads.append((repo_id, filename))
        path = self.root / repo_id / filename
        if not path.exists():
            from huggingface_hub.errors import EntryNotFoundError

            raise EntryNotFoundError(f"{repo_id} has no {filename}")
        return str(path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(timm_hub, "HfApi", lambda **_: hub)
    monkeypatch.setattr(timm_hub, "hf_hub_download", hub.download)
    return hub


def small(name, **kwargs):
    """A slim, narrow model of 7 classes in which nothing is at a start value that hides an error."""
    torch.manual_seed(0)
    model = timm.create_model(name, **{**narrow(name), **slim_depths(name), **kwargs}).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                value.add_(0.1 * torch.randn(value.shape))
            if key.endswith("running_var"):
                value.abs_().add_(0.5)
    return model


def picture(channels=3):
    return torch.randn(2, channels, 64, 96, generator=torch.Generator().manual_seed(3))


def as_tuples(config):
    """JSON knows no tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}


def assert_same(again, model, channels=3):
    x = picture(channels)
    with torch.inference_mode():
        want = model(x)
        assert want.isfinite().all() and want.std() > 0
        assert torch.equal(again.eval()(x), want)


@every_form
def test_a_pushed_model_comes_back_from_its_folder(name, hub):
    model = small(name)
    push_to_hf_hub(model, "someone/mine", model_card={"tags": ["linear-attention"]})
    folder = hub.root / "someone" / "mine"
    held = {"config.json", "model.safetensors", "pytorch_model.bin", "README.md"}
    assert held == {f.name for f in folder.iterdir()}
    assert "linear-attention" in (folder / "README.md").read_text()
    again = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert type(again) is type(model) and again.num_classes == 7
    assert_same(again, model)
    kept = ("paper_ids", "paper_name", "origin_url", "license", "classifier", "first_conv", "interpolation",
            "crop_pct", "crop_mode")  # fmt: skip
    for key in kept:
        assert again.pretrained_cfg.get(key) == model.pretrained_cfg.get(key), key
    assert as_tuples(resolve_model_data_config(again)) == as_tuples(resolve_model_data_config(model))


@every_form
def test_a_pushed_model_comes_back_by_its_hub_name(name, hub):
    model = small(name)
    push_to_hf_hub(model, "someone/mine", safe_serialization=True)
    again = timm.create_model("hf-hub:someone/mine", pretrained=True)
    assert_same(again, model)
    assert ("someone/mine", "model.safetensors") in hub.downloads


@every_form
def test_input_channels_and_another_head_survive_the_folder(name, tmp_path):
    model = small(name, in_chans=5, num_classes=3)
    save_for_hf(model, tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == name and config["num_classes"] == 3
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert again.num_classes == 3
    assert_same(again, model, channels=5)
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=2).eval()
    assert other(picture(5)).shape == (2, 2)
    body = model.forward_features(picture(5))
    torch.testing.assert_close(other.forward_features(picture(5)), body)


@every_form
def test_features_of_a_folders_model_are_those_of_the_model(name, tmp_path):
    model = small(name)
    save_for_hf(model, tmp_path, safe_serialization=True)
    features = timm.create_model(
        f"local-dir:{tmp_path}", pretrained=True, features_only=True, out_indices=(0, 1)
    )
    with torch.inference_mode():
        want = model.forward_intermediates(picture(), indices=[0, 1], intermediates_only=True)
        got = features.eval()(picture())
    assert len(got) == 2
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_every_family_is_pushed():
    assert {FAMILY_OF[name] for name in forms()} == set(FAMILY_OF.values())


def test_a_readme_that_is_there_is_kept(hub):
    folder = hub.root / "someone" / "mine"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("mine")
    push_to_hf_hub(small("ravlt_tiny"), "someone/mine")
    assert (folder / "README.md").read_text() == "mine"


def test_a_folder_of_another_size_is_refused(tmp_path):
    save_for_hf(small("ravlt_tiny"), tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"]["dims"] = [16, 32, 48, 96]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((ValueError, RuntimeError), match=r"another size\?|size mismatch"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
