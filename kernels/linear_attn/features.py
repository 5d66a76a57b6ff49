"""Feature maps phi, applied to queries and keys before linear attention."""

import torch
from torch import Tensor

FEATURES = ("identity", "elu1", "relu")


def feature_map(x: Tensor, feature: str) -> Tensor:
    """phi(x), same shape and dtype. ``elu1`` is elu(x) + 1, written so that it needs no expm1 and cannot overflow.

    Args:
        x: any shape.
        feature: "identity", "elu1" or "relu".
    """
    if feature == "identity":
        return x
    if feature == "elu1":
        return x.clamp(max=0).exp() + x.clamp(min=0)
    if feature == "relu":
        return x.relu()
    raise ValueError(f"feature must be one of {FEATURES}, got {feature!r}")


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs (2j, 2j + 1) of the last axis of ``x`` (..., N, H, D) by tables (N, D)."""
    pairs = x.unflatten(-1, (-1, 2))
    turned = torch.stack((-pairs[..., 1], pairs[..., 0]), -1).flatten(-2)
    return x * cos.unsqueeze(-2) + turned * sin.unsqueeze(-2)
