"""The authors' files <-> the backbone's own parameter names.

Theirs are ``torch.save``d dicts: ``model_state`` holds every tensor of a detector, the backbone's under
``backbone_3d.``, and the names after that are ours, as are the layouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .. import checkpoints

PART = "backbone_3d"


def from_official(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """A file's content, or its ``model_state``, -> the backbone's tensors by our names; the rest is left out.

    Raises: ValueError where there is no tensor of a 3D backbone.
    """
    return checkpoints.part_of(checkpoints.weights_of(checkpoint), PART)


def to_official(backbone: nn.Module) -> dict[str, dict[str, Tensor]]:
    """The other way: what a file of the authors' would hold of the backbone."""
    return checkpoints.to_official(backbone, PART)


def load_official(backbone: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Fills a ``LionBackbone`` from a file's content.

    Raises: ValueError where names or shapes are not the backbone's, before anything is changed.
    """
    checkpoints.load_part(backbone, checkpoint, PART)
