"""What is promised to users, as a snapshot: a name that appears or goes is a decision, not an accident."""

import importlib
import inspect

import pytest

FAMILY = {"VARIANTS", "checkpoint_filter_fn", "default_cfgs", "from_official", "to_official"}
SURFACE = {
    "linzoo": {"__version__"},
    "linzoo.kernels": {
        "BackendError",
        "LinState",
        "ShapeError",
        "feature_map",
        "lin_readout",
        "lin_reduce",
        "linear_attn",
    },
    "linzoo.vision": {"FAMILIES", "Pyramid", "fold", "mixer_names", "register_mixer"},
    "linzoo.vision.ravlt": FAMILY | {"RankAugmentedMixer"},
    "linzoo.vision.mala": FAMILY | {"MagnitudeAwareMixer"},
    "linzoo.vision.nalaformer": FAMILY | {"NormAwareMixer"},
    "linzoo.vision.l2vit": FAMILY
    | {"L2ViT", "LinearGlobalAttention", "LocalConcentration", "WindowAttention"},
}


def names_of(package: str) -> set[str]:
    """``__all__`` without the entry points, which timm's registry lists."""
    module = importlib.import_module(package)
    return {n for n in module.__all__ if n not in getattr(module, "VARIANTS", {})}


@pytest.mark.parametrize("package", SURFACE)
def test_the_promised_names_are_these(package):
    assert names_of(package) == SURFACE[package]


@pytest.mark.parametrize("package", SURFACE)
def test_every_promised_name_exists_and_every_callable_is_documented(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{package}.{name} has no docstring"


@pytest.mark.parametrize("name", ["linear_attn", "lin_reduce", "lin_readout", "feature_map"])
def test_the_ops_are_typed(name):
    signature = inspect.signature(getattr(importlib.import_module("linzoo.kernels"), name))
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())
