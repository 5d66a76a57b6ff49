"""Backbones for timm: importing this registers every family, ``timm.create_model("ravlt_tiny")``."""

from importlib import import_module

FAMILIES = ("ravlt", "mala", "nalaformer", "l2vit")

__all__ = ["FAMILIES"]

for _family in FAMILIES:
    import_module(f".{_family}", __name__)
