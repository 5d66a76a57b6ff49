"""Exponentials of log decays."""

import torch
from torch import Tensor


def exp_(x: Tensor) -> Tensor:
    """e^x in place, 0 where it would be under 1e-34: numbers too small for a full mantissa are slow."""
    return torch.threshold_(x, -700.0 if x.dtype == torch.float64 else -78.0, -torch.inf).exp_()
