"""Which parameters a distillation trains."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ..linearize import linearized


def trained_names(model: nn.Module, trains: str) -> list[str]:
    """Parameter names, in the model's order.

    Args:
        trains: "all", or "swapped": what the swap owns (for LinFusion everything of the swapped modules; for
            CLEAR the image-side projections and the pooling weights, 380 or 437 tensors of FLUX).
    Raises: ValueError for "swapped" when nothing is swapped.
    """
    names = [name for name, _ in model.named_parameters()]
    if trains == "all":
        return names
    handle = linearized(model)
    if handle is None:
        raise ValueError("train must be 'all' for a model without swapped modules, got 'swapped'")
    owned = handle.parameters()
    return [name for name in names if name in owned]


def train_only(model: nn.Module, names: Iterable[str]) -> list[nn.Parameter]:
    """Freeze everything but ``names``; returns their parameters."""
    wanted, chosen = set(names), []
    for name, parameter in model.named_parameters():
        if name in wanted:
            chosen.append(parameter.requires_grad_(True))
        else:
            parameter.requires_grad_(False)
    return chosen
