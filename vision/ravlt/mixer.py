"""RALA, rank-augmented linear attention, arXiv 2411.07635.

    a_t = phi(q_t),  b_s = phi(k_s),  phi = elu + 1
    w_s = N softmax_s( d^-1/2 mean_t(a_t) . b_s )              how well a key serves the mean query; mean 1
    z_t = a_t . mean_s(w_s b_s) + 1e-6                         without rotary
    y_t = 1/z_t 1/N sum_s ( R a_t . R w_s b_s ) v_s            with rotary R

N tokens t, s; d channels a head. y plus a local enhancement of v is multiplied by a gate without activation.
"""

import torch
from torch import Tensor

from ...kernels import feature_map, linear_attn
from ..layers import GatedMixer, Rope, register_mixer


def key_weights(q: Tensor, k: Tensor) -> Tensor:
    """Weight of each key: (B, N, H, D) twice -> (B, N, H) of mean 1, float32 (float64 for float64 input).

    Sums and exponents in float32: in half precision a weight near 1/N would be subnormal.
    """
    acc = torch.float64 if q.dtype == torch.float64 else torch.float32
    mean_query = feature_map(q, "elu1").mean(1, keepdim=True, dtype=acc) * q.shape[-1] ** -0.5
    scores = (feature_map(k, "elu1") * mean_query).sum(-1)
    rise = (scores - scores.detach().amax(1, keepdim=True)).exp()
    return rise / rise.mean(1, keepdim=True)


@register_mixer("rala")
class RankAugmentedMixer(GatedMixer):
    """(B, H, W, C) -> (B, H, W, C) at a cost linear in H * W."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rope: Rope | None) -> Tensor:
        return linear_attn(q, k, v, feature="elu1", norm="sum", eps=1e-6, rope=rope, weight=key_weights(q, k))
