"""alpha and beta of y = alpha(z) u + beta(z) m, and slopes, for four normalisers; n tokens, tau the scale.

sum     alpha = 1 / (z + eps)                   beta = 0
clamp   alpha = tau / max(z, cmin)              beta = 0
mag     alpha = tau (1 + 1 / (tau z + eps))     beta = -tau z / n
sub     alpha = tau                             beta = (1 - tau z) / n;  1 / n on a centred state
"""

from typing import NamedTuple

import torch
from torch import Tensor

NORMS = ("sum", "clamp", "mag", "sub")


class Terms(NamedTuple):
    """Per state, shaped to broadcast over (t, h, T, 1): tau and 1 / n, and what eps adds to the
    denominator.
    """

    tau: Tensor
    inv_n: Tensor
    eps: Tensor


def state_terms(
    n: Tensor, like: Tensor, norm: str, eps: float, eps_on: str, scale: float, tau: Tensor | None
) -> Terms:
    """(R,) counts -> terms of (R, H, 1, 1). An empty state's denominator is made 1, so that it reads as 0."""
    shape = (*like.shape[:2], 1, 1)
    count = n.clamp(min=1).to(like.dtype).view(-1, 1, 1, 1)
    on_mean = norm == "sum" and eps_on == "mean"
    added = (eps * count if on_mean else torch.full_like(count, eps)).masked_fill(n.view_as(count) == 0, 1)
    factor = tau.to(like.dtype).view(1, -1, 1, 1) if norm == "clamp" else scale / count
    return Terms(factor.expand(shape), (1 / count).expand(shape), added.expand(shape))


def alpha_beta(z: Tensor, t: Terms, norm: str, cmin: float, centered: bool) -> tuple[Tensor, Tensor | None]:
    """Overwrites z with alpha where it can. beta is None where it is 0."""
    if norm == "sum":
        return z.add_(t.eps).reciprocal_(), None
    if norm == "clamp":
        return z.clamp_(min=cmin).reciprocal_().mul_(t.tau), None
    if norm == "mag":
        scaled = z.mul_(t.tau)
        beta = scaled * -t.inv_n
        return scaled.add_(t.eps).reciprocal_().add_(1).mul_(t.tau), beta
    if centered:
        return t.tau, t.inv_n
    return t.tau, z.mul_(-t.tau).add_(1).mul_(t.inv_n)


def slopes(
    z: Tensor, uy: Tensor, my: Tensor | None, t: Terms, norm: str, cmin: float, centered: bool
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """alpha, beta, dz and, for clamp, the addends of dtau; z, uy = u . dy, my = m . dy are (t, h, T, 1).

    dz = alpha'(z) u . dy + beta'(z) m . dy; None where the output does not depend on z.
    """
    if norm == "sum":
        alpha = z.add_(t.eps).reciprocal_()
        return alpha, None, uy.mul_(alpha).mul_(alpha).neg_(), None
    if norm == "clamp":
        below = z <= cmin
        inverse = z.clamp_(min=cmin).reciprocal_()
        dtau = uy * inverse
        return inverse * t.tau, None, (dtau * inverse).mul_(-t.tau).masked_fill_(below, 0), dtau
    if norm == "mag":
        scaled = z.mul_(t.tau)
        beta = scaled * -t.inv_n
        inverse = scaled.add_(t.eps).reciprocal_()
        dz = (uy * inverse).mul_(inverse).mul_(-t.tau * t.tau).sub_(my * (t.tau * t.inv_n))
        return inverse.add_(1).mul_(t.tau), beta, dz, None
    if centered:
        return t.tau, t.inv_n, None, None
    dz = my * (-t.tau * t.inv_n)
    return t.tau, z.mul_(-t.tau).add_(1).mul_(t.inv_n), dz, None
