"""Linear attention as an operator of LION; of our own: every token reads its whole sequence, without order.

    y_i = phi(q_i) sum_j phi(k_j) v_j^T / (phi(q_i) . sum_j phi(k_j))

Order enters by the position embeddings and convolutions around the layers only.
"""

from torch import Tensor, nn

from ....kernels import linear_attn
from .feed_forward import FeedForward
from .operator import Operator, heads_for

FEATURES = ("elu1", "relu")


class LinearBlock(Operator):
    """x + Attention(LN x), then x + FFN(LN x).

    heads: default one for 32 channels.  feature: phi, "elu1" (elu(x) + 1) or "relu".  ffn_ratio: hidden width
    over C.  Others: ``Operator``.
    """

    def __init__(
        self,
        channels: int,
        *,
        layer_id: int = 0,
        n_layer: int = 1,
        drop_path: float = 0.0,
        heads: int | None = None,
        feature: str = "elu1",
        ffn_ratio: int = 4,
    ) -> None:
        super().__init__(channels, layer_id=layer_id, n_layer=n_layer, drop_path=drop_path)
        if feature not in FEATURES:
            raise ValueError(f"feature must be one of {FEATURES}, got {feature!r}")
        self.heads, self.feature = heads_for(channels, heads), feature
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels, ffn_ratio * channels)

    def mix(self, x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        y = linear_attn(q, k, v, feature=self.feature, cu_seqlens=cu_seqlens)
        x = x + self.drop_path(self.proj(y.flatten(2)), cu_seqlens)
        return x + self.drop_path(self.ffn(self.norm2(x)), cu_seqlens)
