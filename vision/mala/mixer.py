"""MALA, magnitude-aware linear attention, arXiv 2507.00698.

    a_t = phi(q_t),  b_s = phi(k_s),  phi = elu + 1,  tau = d^-1/2 / N
    z_t = tau sum_s a_t . b_s                                  without rotary
    u_t = tau sum_s ( R a_t . R b_s ) v_s                      with rotary R
    y_t = u_t (1 + 1/(z_t + 1e-6)) - z_t mean_s(v_s)

N tokens t, s; d channels a head. Not divided by a sum, so the magnitude of a query counts. y plus a local
enhancement of v is multiplied by a gate without activation.
"""

from torch import Tensor

from ...kernels import linear_attn
from ..layers import GatedMixer, Rope, register_mixer


@register_mixer("mala")
class MagnitudeAwareMixer(GatedMixer):
    """(B, H, W, C) -> (B, H, W, C) at a cost linear in H * W."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rope: Rope | None) -> Tensor:
        return linear_attn(q, k, v, feature="elu1", norm="mag", eps=1e-6, rope=rope)
