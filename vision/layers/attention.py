"""Softmax attention over all tokens, with rotary queries and keys: the quadratic stages of the pyramid.

y_t = sum_s softmax_s( d^-1/2 R q_t . R k_s ) v_s          d channels a head, R the rotary turn
"""

import torch.nn.functional as F
from torch import Tensor

from .gated_mixer import GatedMixer
from .mixers import register_mixer
from .rope import Rope, rotate


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, rope: Rope | None) -> Tensor:
    """(B, N, H, D) three times -> (B, N, H, D); no N x N matrix where torch has a kernel without."""
    if rope is not None:
        q, k = rotate(q, rope), rotate(k, rope)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


@register_mixer("softmax")
class SoftmaxMixer(GatedMixer):
    """Softmax attention with RAVLT's and MALA's plain gate; (B, H, W, C) -> (B, H, W, C)."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rope: Rope | None) -> Tensor:
        return softmax_attention(q, k, v, rope)
