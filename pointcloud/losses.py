"""Losses of LiDAR heads on scores and codes; those on boxes themselves are in ``box_losses``."""

import torch
from torch import Tensor
from torch.nn import functional as F

CLIP = 1e-4  # a heat map's probabilities stay this far from 0 and 1


def gaussian_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Heat maps against targets of the same shape in 0..1, which are 1 at the objects. Scalar.

    With p = sigmoid(logits) clipped: -(1 - p)^2 log p where the target t is exactly 1, elsewhere
    -(1 - t)^4 p^2 log(1 - p), summed, over the number of cells with t = 1; over 1 if there are none.
    Source: CornerNet, arXiv 1808.01244, equation 1.
    """
    p = at_least_float32(logits).sigmoid().clamp(CLIP, 1 - CLIP)
    positive = target == 1
    at_objects = -((1 - p) ** 2) * p.log()
    elsewhere = -((1 - target) ** 4) * p**2 * (1 - p).log()
    return torch.where(positive, at_objects, elsewhere).sum() / positive.sum().clamp(min=1)


def sigmoid_focal_loss(logits: Tensor, target: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Elementwise alpha_t (1 - p_t)^gamma (-log p_t), shape of logits; target is 0 or 1.

    p_t is the probability of the target, alpha_t is alpha at targets 1 and 1 - alpha at 0.
    Source: RetinaNet, arXiv 1708.02002, equation 5.
    """
    logits = at_least_float32(logits)
    target = target.to(logits.dtype)
    signed = logits * (2 * target - 1)  # log p_t = logsigmoid(signed)
    weight = alpha * target + (1 - alpha) * (1 - target)
    return weight * torch.sigmoid(-signed) ** gamma * -F.logsigmoid(signed)


def sum_over_objects(error: Tensor, weights: Tensor | None = None) -> Tensor:
    """Errors of objects (K, codes), weighted a code, summed, over max(K, 1). Scalar, 0 without objects."""
    if weights is not None:
        error = error * weights
    return error.sum() / max(len(error), 1)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision widened to float32, everything else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
