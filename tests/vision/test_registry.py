"""What timm knows about the pyramid families: names, sources, licences, how to prepare an image."""

import importlib

import pytest
import timm
from timm.data import resolve_model_data_config

from linzoo.vision import FAMILIES, mala, nalaformer, ravlt

SIZES = {
    "ravlt": ["base", "large", "small", "tiny"],
    "mala": ["base", "large", "small", "tiny"],
    "nalaformer": ["base", "large", "small", "tiny", "xt"],
}


@pytest.mark.parametrize("name", SIZES)
def test_timm_lists_each_family_by_its_module(name):
    assert name in FAMILIES
    expected = [f"{name}_{size}" for size in SIZES[name]]
    assert timm.list_models(module=name) == expected
    assert sorted(importlib.import_module(f"linzoo.vision.{name}").VARIANTS) == expected


def test_only_weights_whose_file_is_known_are_promised():
    assert set(timm.list_models("ravlt_*", pretrained=True)) == {f"ravlt_{s}.in1k" for s in SIZES["ravlt"]}
    assert timm.list_models("mala_*", pretrained=True) == []
    assert timm.list_models("nalaformer_*", pretrained=True) == []
    for name, letter in (("tiny", "T"), ("small", "S"), ("base", "B"), ("large", "L")):
        cfg = timm.get_pretrained_cfg(f"ravlt_{name}")
        assert (cfg.hf_hub_id, cfg.hf_hub_filename) == ("aldjalkdf/RAVLT", f"RAVLT_{letter}.pth")
    with pytest.raises(RuntimeError, match="No pretrained weights exist for mala_tiny"):
        timm.create_model("mala_tiny", pretrained=True)


@pytest.mark.parametrize("family, licence, paper", [
    (ravlt, "mit", "arXiv:2411.07635"),
    (mala, None, "arXiv:2507.00698"),
    (nalaformer, "mit", "arXiv:2506.21137"),
], ids=lambda v: getattr(v, "__name__", ""))  # fmt: skip
def test_licence_paper_and_origin_are_recorded(family, licence, paper):
    for name in family.VARIANTS:
        cfg = timm.get_pretrained_cfg(name)
        assert (cfg.license, cfg.paper_ids) == (licence, paper)
        assert cfg.origin_url.startswith("https://github.com/") and cfg.paper_name


def test_published_accuracy_is_noted_where_the_authors_state_it_and_nowhere_else():
    noted = {}
    for family in (ravlt, mala, nalaformer):
        for name in family.VARIANTS:
            notes = timm.get_pretrained_cfg(name).notes
            if notes:
                noted[name] = notes[0].removeprefix("ImageNet-1k top-1 ")[:4]
    assert noted == {
        "ravlt_small": "84.4",
        "mala_small": "84.7",
        "nalaformer_xt": "79.1",
        "nalaformer_tiny": "82.6",
        "nalaformer_small": "84.3",
        "nalaformer_base": "85.2",
        "nalaformer_large": "85.7",
    }


@pytest.mark.parametrize("name", ["ravlt_tiny", "mala_tiny", "nalaformer_xt"])
def test_images_are_resized_to_256_bicubic_and_cropped_to_224(name):
    model = timm.create_model(name, device="meta")
    config = resolve_model_data_config(model)
    assert config["input_size"] == (3, 224, 224)
    assert (config["interpolation"], config["crop_pct"], config["crop_mode"]) == ("bicubic", 0.875, "center")
    assert config["mean"] == (0.485, 0.456, 0.406) and config["std"] == (0.229, 0.224, 0.225)
    cfg = model.pretrained_cfg
    assert cfg["num_classes"] == 1000 and cfg["pool_size"] == (7, 7)
    parameters = dict(model.named_parameters())
    assert f"{cfg['classifier']}.weight" in parameters and f"{cfg['first_conv']}.weight" in parameters
