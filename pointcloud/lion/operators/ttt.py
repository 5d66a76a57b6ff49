"""LION's TTT-Linear (arXiv 2407.04620): fast weights that are trained on the tokens while they are read.

The scan is ``linzoo.kernels.ttt_scan``. Around it: rotary q and k with positions within mini-batches of 16, a
learning rate e_ij = max(0, 1 / (i + 1) + learned_i) sigmoid(w . x_j + c) / D per head, i the place in the
mini-batch.
"""

import torch
from torch import Tensor, nn

from ....kernels import ttt_scan
from .operator import Operator, heads_for
from .packed import places

THETA = 1e4  # of the rotary angles


def rotary(position: Tensor, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin (N, 1, width / 2) of the pairs (2j, 2j + 1), float32 at least."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    pair = torch.arange(width // 2, device=like.device, dtype=dtype)
    angle = position.to(dtype).unsqueeze(-1) * THETA ** (-2 * pair / width)
    return angle.cos().unsqueeze(1), angle.sin().unsqueeze(1)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(G, T, H, D): every pair of channels turned by its angle."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2).to(x.dtype)


class FastWeights(nn.Module):
    """Projections, learning rates and the scan, then a norm over all heads."""

    def __init__(self, channels: int, heads: int, size: int) -> None:
        super().__init__()
        width = channels // heads
        self.heads, self.size = heads, size
        self.q_proj = nn.Linear(channels, channels, bias=False)
        self.k_proj = nn.Linear(channels, channels, bias=False)
        self.v_proj = nn.Linear(channels, channels, bias=False)
        self.o_proj = nn.Linear(channels, channels, bias=False)
        self.post_norm = nn.LayerNorm(channels, eps=1e-6)
        self.learnable_token_idx = nn.Parameter(torch.zeros(size))
        self.learnable_ttt_lr_weight = nn.Parameter(torch.empty(heads, 1, channels).normal_(std=0.02))
        self.learnable_ttt_lr_bias = nn.Parameter(torch.zeros(heads, 1))
        self.ttt_norm_weight = nn.Parameter(torch.ones(heads, width))
        self.ttt_norm_bias = nn.Parameter(torch.zeros(heads, width))
        self.W1 = nn.Parameter(torch.empty(heads, width, width).normal_(std=0.02))
        self.b1 = nn.Parameter(torch.zeros(heads, 1, width))

    def rates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Learning rates of tokens (G, T, H) and of places in a mini-batch (size,)."""
        scores = nn.functional.linear(
            x, self.learnable_ttt_lr_weight.squeeze(1), self.learnable_ttt_lr_bias.squeeze(1)
        )
        place = torch.arange(1, self.size + 1, device=x.device, dtype=self.learnable_token_idx.dtype)
        return scores.sigmoid() / (x.shape[-1] // self.heads), (1 / place + self.learnable_token_idx).relu()

    def forward(self, x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)) for f in (self.q_proj, self.k_proj, self.v_proj))
        place = places(x, cu_seqlens)
        place = torch.arange(x.shape[1], device=x.device) if place is None else place
        table = rotary(place % self.size, q.shape[-1], q)
        o, _ = ttt_scan(
            turned(q, *table),
            turned(k, *table),
            v,
            *self.rates(x),
            self.W1,
            self.b1.squeeze(1),
            self.ttt_norm_weight,
            self.ttt_norm_bias,
            size=self.size,
            cu_seqlens=cu_seqlens,
        )
        return self.o_proj(self.post_norm(o.flatten(2)))


class SwiGlu(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(channels, hidden, bias=False)
        self.up_proj = nn.Linear(channels, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class TttBlock(Operator):
    """x + FastWeights(RMSNorm x), then x + SwiGLU(RMSNorm x); one direction. Only the first is dropped.

    heads: must leave an even width.  ffn_ratio: hidden width over C.  size: tokens in a mini-batch.  Others:
    ``Operator``.
    """

    def __init__(
        self,
        channels: int,
        *,
        layer_id: int = 0,
        n_layer: int = 1,
        drop_path: float = 0.0,
        heads: int = 4,
        ffn_ratio: int = 2,
        size: int = 16,
    ) -> None:
        super().__init__(channels, layer_id=layer_id, n_layer=n_layer, drop_path=drop_path)
        heads = heads_for(channels, heads)
        if channels // heads % 2:
            raise ValueError(f"heads must leave an even width of channels = {channels}, got {heads}")
        if size < 1:
            raise ValueError(f"size must be >= 1 token, got {size}")
        self.seq_norm = nn.RMSNorm(channels, eps=1e-6)
        self.ffn_norm = nn.RMSNorm(channels, eps=1e-6)
        self.seq_modeling_block = FastWeights(channels, heads, size)
        self.mlp = SwiGlu(channels, ffn_ratio * channels)

    def mix(self, x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        x = x + self.drop_path(self.seq_modeling_block(self.seq_norm(x), cu_seqlens), cu_seqlens)
        return x + self.mlp(self.ffn_norm(x))
