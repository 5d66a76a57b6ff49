"""The authors' checkpoints <-> the backbone: the names are the same, so this checks them.

A file holds ``model_state`` with the whole detector; the backbone's tensors begin with ``backbone_3d.``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..checkpoints import check_fit
from .model import ScatterFormer
from .variants import ScatterFormerConfig

PREFIX = "backbone_3d."


def from_official(tensors: Mapping[str, Tensor], config: ScatterFormerConfig) -> dict[str, Tensor]:
    """A detector's ``model_state``, or the backbone's part of it with or without prefix -> the backbone's.

    Raises: ValueError that names tensors that are missing, are not the backbone's, or have another shape.
    """
    found = {k.removeprefix(PREFIX): v for k, v in tensors.items() if k.startswith(PREFIX)} or dict(tensors)
    with torch.device("meta"):
        backbone = ScatterFormer(config)
    check_fit(backbone, found, "tensors")
    return {k: found[k] for k in backbone.state_dict()}


def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's tensors by the names they have in a detector's ``model_state``."""
    return {PREFIX + k: v for k, v in tensors.items()}
