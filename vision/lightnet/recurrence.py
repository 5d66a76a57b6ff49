"""Additive linear recurrences, arXiv 2405.21022: causal, O(N), on top of ``decay_scan``.

    D_t = w_1 + ... + w_t      w = exp(g), g the log-mass of a token and key channel
    S_t = (D_{t-1} / D_t) S_{t-1} + (w_t / D_t) k_t v_t^T      o_t = scale S_t^T q_t

Kept as z_t = log D_t: the decay is exp(z_{t-1} - z_t) and the weight exp(g_t - z_t), both at most 1. LightNet
is k = 1 with its key as g: o_t = q_t^T (softmax of the keys over the positions up to t)^T V, per channel.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ...kernels import decay_scan
from ...kernels.autocast import exactly
from ...kernels.checks import accumulation_dtype
from ...kernels.key_softmax import Tables, spread

# log of no mass: finite, so that no difference of two is NaN; a sum of exponentials never notices it
NOTHING = -1e30


class AdditiveState(NamedTuple):
    """What continues a scan, float32 (float64 for float64 input).

    S (B, H, D, E): the normalised sum; with tables (B, H, 2 D, E).
    z (B, H, D): log of the mass so far, -1e30 where there was none.
    """

    S: Tensor
    z: Tensor


def additive_scan(
    q: Tensor,
    log_mass: Tensor,
    v: Tensor,
    k: Tensor | None = None,
    *,
    scale: float = 1.0,
    unit_prior: bool = False,
    mask: Tensor | None = None,
    rope: Tables | None = None,
    initial: AdditiveState | None = None,
    backend: str = "auto",
) -> tuple[Tensor, AdditiveState]:
    """The module's recurrence over all tokens of each row.

    Args:
        q: (B, N, H, D), feature map already applied.
        log_mass: (B, N, H, D), or (B, N, H, 1) for one mass per head and token; differentiable.
        v: (B, N, H, E).
        k: (B, N, H, D); None is 1, LightNet.
        scale: number that multiplies q. flash-linear-attention has D^-1/2, the author's code 1.
        unit_prior: the mass starts at 1 (z_0 = 0) instead of 0, as in the author's language models.
        mask: (B, N) bool; tokens with False have no mass, but read.
        rope: (cos, sin), each (N, H, D), in the accumulation dtype: the cosine form of positions on q and on
            the weighted keys. Turning pairs of channels that decay differently would be no relative encoding.
        initial: the state that another call ended with; this call continues it.
        backend: of ``decay_scan``.
    Returns: o (B, N, H, E) in q's dtype, and the state after the last token. Sums in float32 (float64 for
        float64), under autocast too.
    Raises: ValueError for unit_prior together with initial; what ``decay_scan`` raises.
    """
    if unit_prior and initial is not None:
        raise ValueError("additive_scan: unit_prior must be False with initial, which holds it, got True")
    acc = accumulation_dtype(q.dtype)
    with exactly(q):
        g = log_mass.to(acc).expand(*q.shape)
        if mask is not None:
            g = g.masked_fill(~mask[..., None, None], NOTHING)
        start = g.new_full((len(q), *q.shape[2:]), 0.0 if unit_prior else NOTHING)
        z = torch.cat(((start if initial is None else initial.z).unsqueeze(1), g), 1).logcumsumexp(1)
        before, z = z[:, :-1], z[:, 1:]
        log_decay = before - z  # about -1e30 at the first mass: a reset of a state that is 0
        weight = (g - z).exp()
        if mask is not None:
            weight = weight * mask[..., None, None]
        if k is not None:
            weight = weight * k.to(acc)
        features, weights = q.to(acc), weight
        if rope is not None:
            features, weights = spread(features, *rope), spread(weight, *rope)
            log_decay = torch.cat((log_decay, log_decay), -1)
        o, S = decay_scan(
            features, weights, v.to(acc), log_decay, scale=float(scale),
            initial=None if initial is None else initial.S, backend=backend,
        )  # fmt: skip
    return o.to(q.dtype), AdditiveState(S, z[:, -1])
