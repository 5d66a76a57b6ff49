"""Small models of every family, from the families' own tables.

A family whose blocks differ says in its test file which blocks a slim model needs: ``slim(name)`` there gives
keyword arguments. Elsewhere a slim model has one block a stage, or three where there are no stages.
"""

import importlib
from pathlib import Path
from typing import get_type_hints

import timm
from torch import nn

from linzoo.vision import FAMILIES

MODULES = {family: importlib.import_module(f"linzoo.vision.{family}") for family in FAMILIES}
FAMILY_OF = {name: family for family, module in MODULES.items() for name in module.VARIANTS}
NAMES = list(FAMILY_OF)


def forms() -> list[str]:
    """The first variant of every model class of every family."""
    first = {}
    for name, family in FAMILY_OF.items():
        model_cls = get_type_hints(timm.model_entrypoint(name))["return"]
        first.setdefault((family, model_cls), name)
    return list(first.values())


SIZES = {
    "dims",
    "heads",
    "depths",
    "embed_dim",
    "num_heads",
    "depth",
    "img_size",
    "drop_path_rate",
    "neck_dim",
}


def structures() -> list[str]:
    """The first variant of all that differ in their sizes only."""
    first = {}
    for name, family in FAMILY_OF.items():
        model_cls = get_type_hints(timm.model_entrypoint(name))["return"]
        kwargs = MODULES[family].VARIANTS[name].kwargs()
        others = tuple(sorted((k, v) for k, v in kwargs.items() if k not in SIZES))
        first.setdefault((family, model_cls, others, tuple(slim_depths(name).items())), name)
    return list(first.values())


def slim_depths(name: str) -> dict:
    """Keyword arguments that leave as few blocks as hold each kind."""
    family = FAMILY_OF[name]
    if (Path(__file__).parent / f"test_{family}.py").exists():
        own = getattr(importlib.import_module(f".test_{family}", __package__), "slim", None)
        if own is not None:
            return own(name)
    kwargs = MODULES[family].VARIANTS[name].kwargs()
    return {"depths": (1,) * len(kwargs["depths"])} if "depths" in kwargs else {"depth": 3}


def narrow(name: str) -> dict:
    """Keyword arguments of few channels."""
    if "depths" in MODULES[FAMILY_OF[name]].VARIANTS[name].kwargs():
        return {"dims": (16, 32, 48, 64), "heads": (1, 2, 4, 4), "num_classes": 7}
    return {"embed_dim": 32, "num_heads": 2, "num_classes": 7}


def parts(model: nn.Module) -> nn.Module:
    """Stages, or blocks where there are no stages: one entry for each of ``feature_info``."""
    return model.stages if hasattr(model, "stages") else model.blocks


def first_blocks(model: nn.Module) -> list[nn.Module]:
    """The first block of every stage, or every block."""
    return [stage.blocks[0] for stage in model.stages] if hasattr(model, "stages") else list(model.blocks)
