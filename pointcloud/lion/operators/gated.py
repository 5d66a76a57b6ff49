"""Gated linear attention (arXiv 2312.06635) in both directions as an operator of LION; of our own.

    y_t = D^-1/2 q_t (sum_{s<=t} prod_{s<m<=t} a_m k_s v_s^T + sum_{s>t} prod_{t<=m<s} a_m k_s v_s^T)

a_t = sigmoid(.)^(1/16) per key channel, from the token. Both directions share all weights: a flipped sequence
gives the flipped result.
"""

from torch import Tensor, nn

from ....kernels import decay_scan
from .feed_forward import FeedForward
from .operator import Operator, heads_for

SLOWNESS = 16  # divides the log decays: tokens some hundred steps away still count


class GatedAttention(nn.Module):
    def __init__(self, channels: int, heads: int, rank: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.decay = nn.Sequential(nn.Linear(channels, rank, bias=False), nn.Linear(rank, channels))
        self.gate = nn.Linear(channels, channels)
        self.norm = nn.RMSNorm(channels // heads, eps=1e-6)
        self.proj = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        decay = self.decay(x)
        if decay.element_size() < 4:
            decay = decay.float()
        log_decay = (nn.functional.logsigmoid(decay) / SLOWNESS).unflatten(-1, (self.heads, -1))
        words = {"scale": q.shape[-1] ** -0.5, "cu_seqlens": cu_seqlens}
        past, _ = decay_scan(q, k, v, log_decay, **words)
        nothing = log_decay.new_zeros(q.shape[2:])  # the token itself counts once, in the first scan
        later, _ = decay_scan(q, k, v, log_decay, bonus=nothing, reverse=True, **words)
        y = self.norm((past + later).to(self.norm.weight.dtype)).flatten(2)
        return self.proj(y * nn.functional.silu(self.gate(x)))


class GatedBlock(Operator):
    """x + Attention(LN x), then x + FFN(LN x).

    heads: default one for 32 channels.  rank: of the projection to the decays.  ffn_ratio: hidden width over
    C.  Others: ``Operator``.
    """

    def __init__(
        self,
        channels: int,
        *,
        layer_id: int = 0,
        n_layer: int = 1,
        drop_path: float = 0.0,
        heads: int | None = None,
        rank: int = 16,
        ffn_ratio: int = 4,
    ) -> None:
        super().__init__(channels, layer_id=layer_id, n_layer=n_layer, drop_path=drop_path)
        self.norm1 = nn.LayerNorm(channels)
        self.attention = GatedAttention(channels, heads_for(channels, heads), rank)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels, ffn_ratio * channels)

    def mix(self, x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x), cu_seqlens), cu_seqlens)
        return x + self.drop_path(self.ffn(self.norm2(x)), cu_seqlens)
