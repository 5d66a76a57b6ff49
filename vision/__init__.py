"""Backbones for timm: importing this registers every family, ``timm.create_model("ravlt_tiny")``."""

from importlib import import_module

from .fold import fold
from .layers import mixer_names, register_mixer
from .pyramid import Pyramid

FAMILIES = ("ravlt", "mala", "nalaformer", "l2vit", "inline", "lightnet")

for _family in FAMILIES:
    import_module(f".{_family}", __name__)

__all__ = ["FAMILIES", "Pyramid", "fold", "mixer_names", "register_mixer"]
