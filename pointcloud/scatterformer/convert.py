"""The authors' checkpoints <-> the backbone: the names are the same, so this checks them.

A file holds ``model_state`` with the whole detector; the backbone's tensors begin with ``backbone_3d.``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .model import ScatterFormer
from .variants import ScatterFormerConfig

PREFIX = "backbone_3d."
NAMED = 6  # names that an error lists


def from_official(tensors: Mapping[str, Tensor], config: ScatterFormerConfig) -> dict[str, Tensor]:
    """A detector's ``model_state``, or the backbone's part of it with or without prefix -> the backbone's.

    Raises: ValueError that names tensors that are missing, have another shape, or are not the backbone's.
    """
    found = {k.removeprefix(PREFIX): v for k, v in tensors.items() if k.startswith(PREFIX)} or dict(tensors)
    with torch.device("meta"):
        wanted = ScatterFormer(config).state_dict()
    faults = {
        "missing": [k for k in wanted if k not in found],
        "unknown": [k for k in found if k not in wanted],
        "of another shape": [
            f"{k} {tuple(found[k].shape)} for {tuple(v.shape)}"
            for k, v in wanted.items()
            if k in found and found[k].shape != v.shape
        ],
    }
    if any(faults.values()):
        raise ValueError("ScatterFormer: tensors must be those of the config; " + described(faults))
    return {k: found[k] for k in wanted}


def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's tensors by the names they have in a detector's ``model_state``."""
    return {PREFIX + k: v for k, v in tensors.items()}


def described(faults: Mapping[str, list[str]]) -> str:
    parts = []
    for what, names in faults.items():
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            parts.append(f"{what}: {', '.join(names[:NAMED])}{more}")
    return "; ".join(parts)
