"""LION's RetNet (arXiv 2407.18232): retention with a constant decay per head, symmetric within blocks of 64.

    o_i = D^-1/2 sum_j g^|i - j| (q_i . k_j) v_j      over the j of i's block and of all blocks before it

g = 1 - 2^(-5 - h) for head h. No rotary embedding, no norm over heads, no output gate; one direction. The
block is part of the model: other forms of RetNet are causal within it.
"""

import torch
from torch import Tensor, nn

from ....kernels import decay_scan
from .feed_forward import FeedForward
from .operator import Operator, heads_for


class Retention(nn.Module):
    def __init__(self, channels: int, heads: int, expand_v: int, block: int) -> None:
        super().__init__()
        self.heads, self.block = heads, block
        self.q_proj = nn.Linear(channels, channels, bias=False)
        self.k_proj = nn.Linear(channels, channels, bias=False)
        self.v_proj = nn.Linear(channels, expand_v * channels, bias=False)
        self.o_proj = nn.Linear(expand_v * channels, channels, bias=False)
        for layer in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.xavier_uniform_(layer.weight, gain=2**-2.5)
        nn.init.xavier_uniform_(self.o_proj.weight, gain=0.5)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)) for f in (self.q_proj, self.k_proj, self.v_proj))
        o, _ = decay_scan(
            q,
            k,
            v,
            self.log_decay(q),
            symmetric_block=self.block,
            scale=q.shape[-1] ** -0.5,
            cu_seqlens=cu_seqlens,
        )
        return self.o_proj(o.flatten(2))

    def log_decay(self, like: Tensor) -> Tensor:
        """(H,); made when needed, so that widening a model to float64 leaves no float32 digits in it."""
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        head = torch.arange(self.heads, device=like.device, dtype=dtype)
        return torch.log1p(-torch.exp2(-5 - head))


class RetNetBlock(Operator):
    """x + Retention(LN x), then x + FFN(LN x).

    heads: default one for 32 channels.  expand_v: width of values over C.  ffn_ratio: hidden width over C.
    block: tokens that see each other in both directions.  Others: ``Operator``.
    """

    def __init__(
        self,
        channels: int,
        *,
        layer_id: int = 0,
        n_layer: int = 1,
        drop_path: float = 0.0,
        heads: int | None = None,
        expand_v: int = 2,
        ffn_ratio: int = 4,
        block: int = 64,
    ) -> None:
        super().__init__(channels, layer_id=layer_id, n_layer=n_layer, drop_path=drop_path)
        if block < 1:
            raise ValueError(f"block must be >= 1 token, got {block}")
        self.retention_layer_norm = nn.LayerNorm(channels, eps=1e-6)
        self.multi_scale_retention = Retention(channels, heads_for(channels, heads), expand_v, block)
        self.final_layer_norm = nn.LayerNorm(channels, eps=1e-6)
        self.ffn = FeedForward(channels, ffn_ratio * channels)

    def mix(self, x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        branch = self.multi_scale_retention(self.retention_layer_norm(x), cu_seqlens)
        x = x + self.drop_path(branch, cu_seqlens)
        return x + self.drop_path(self.ffn(self.final_layer_norm(x)), cu_seqlens)
