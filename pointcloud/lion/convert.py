"""The authors' files <-> the backbone's own parameter names.

Theirs are ``torch.save``d dicts: ``model_state`` holds every tensor of a detector, the backbone's under
``backbone_3d.``, and the names after that are ours, as are the layouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

PREFIX = "backbone_3d."
SHOWN = 5  # names that a message lists


def from_official(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """A file's content, or its ``model_state``, -> the backbone's tensors by our names; the rest is left out.

    Raises: ValueError where there is no tensor of a 3D backbone.
    """
    tensors = checkpoint.get("model_state", checkpoint)
    found = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
    if not found:
        raise ValueError(
            f"checkpoint must have tensors named {PREFIX}..., alone or under 'model_state', "
            f"got {_some(list(tensors))}"
        )
    return found


def to_official(backbone: nn.Module) -> dict[str, dict[str, Tensor]]:
    """The other way: what a file of the authors' would hold of the backbone."""
    return {"model_state": {f"{PREFIX}{name}": tensor for name, tensor in backbone.state_dict().items()}}


def check_fit(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless ``tensors`` have the backbone's names and shapes."""
    own = backbone.state_dict()
    missing = [name for name in own if name not in tensors]
    foreign = [name for name in tensors if name not in own]
    if missing or foreign:
        raise ValueError(
            f"checkpoint must hold the {len(own)} tensors of this backbone; missing: {_some(missing)}; "
            f"not the backbone's: {_some(foreign)}"
        )
    for name, tensor in own.items():
        if tensors[name].shape != tensor.shape:
            raise ValueError(
                f"checkpoint must have {name} of shape {tuple(tensor.shape)}, "
                f"got {tuple(tensors[name].shape)}"
            )


def load_official(backbone: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Fills a ``LionBackbone`` from a file's content. Raises ValueError, before anything is changed,
    where names or shapes are not the backbone's.
    """
    tensors = from_official(checkpoint)
    check_fit(backbone, tensors)
    backbone.load_state_dict(tensors)


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more
