"""NaLa, norm-aware linear attention, arXiv 2506.21137.

    n_t = |q_t|_2,  u_t = q_t / n_t,  p_t = 3 (1/2 + tanh n_t)            a longer query attends more sharply
    f(q_t) = [ relu(u_t)^p_t , relu(-u_t)^p_t ]                           2d features, signs kept apart
    g(k_s) = [ relu(k_s^3) , relu(-k_s^3) ]
    z_t = f(q_t) . mean_s g(k_s) + 1e-6                                   without rotary
    y_t = 1/z_t 1/N sum_s ( R f(q_t) . R g(k_s) ) v_s                     rotary R on each half, same table

N tokens t, s; d channels a head. The block gives LN(y + local enhancement of v) * SiLU(gate).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import linear_attn
from ..layers import GatedMixer, Rope, register_mixer
from ..layers.attention import softmax_attention

# A query of zeros keeps u = 0 (0/0 would be NaN). Squares of smaller norms are underflow in float32.
TINY = 1e-18


def _wide(x: Tensor) -> Tensor:
    """Cubes and powers up to 4.5 leave the range of half precision."""
    return x if x.dtype == torch.float64 else x.float()


def _halves(x: Tensor) -> Tensor:
    """[ relu(x), relu(-x) ] on the last axis."""
    return torch.cat((x.relu(), (-x).relu()), -1)


def query_features(q: Tensor) -> Tensor:
    """f: (B, N, H, D) -> (B, N, H, 2 D), float32 (float64 for float64); 0, with gradient 0, at q = 0."""
    q = _wide(q)
    norm = torch.linalg.vector_norm(q, dim=-1, keepdim=True)
    unit = q / norm.clamp(min=TINY)
    # one power serves both halves: where one of them is not zero the other is
    return _halves(unit.abs().pow(3 * (0.5 + norm.tanh())) * unit.sign())


def key_features(k: Tensor) -> Tensor:
    """g: (B, N, H, D) -> (B, N, H, 2 D), float32 (float64 for float64 input)."""
    k = _wide(k)
    return _halves(k * k * k)


class _NormedGateMixer(GatedMixer):
    """The gate of NaLaFormer: LayerNorm over all channels, then SiLU of the gate."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, heads, device=device, dtype=dtype)
        self.norm = nn.LayerNorm(dim, eps=1e-5, device=device, dtype=dtype)

    def merge(self, y: Tensor, gate: Tensor) -> Tensor:
        return self.norm(y) * F.silu(gate)


@register_mixer("nala")
class NormAwareMixer(_NormedGateMixer):
    """(B, H, W, C) -> (B, H, W, C) at a cost linear in H * W; attention in float32 whatever the dtype."""

    rope_copies = 2  # one for each half

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rope: Rope | None) -> Tensor:
        if rope is not None and rope[0].shape[-1] == q.shape[-1]:  # not repeated yet
            rope = tuple(torch.cat((table, table), -1) for table in rope)
        return linear_attn(query_features(q), key_features(k), _wide(v), norm="sum", eps=1e-6, rope=rope)


@register_mixer("nala_softmax")
class NormedGateSoftmaxMixer(_NormedGateMixer):
    """Softmax attention with NaLaFormer's LayerNorm and SiLU gate; (B, H, W, C) -> (B, H, W, C)."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rope: Rope | None) -> Tensor:
        return softmax_attention(q, k, v, rope)
