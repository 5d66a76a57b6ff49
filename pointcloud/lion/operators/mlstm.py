"""LION's mLSTM (arXiv 2405.04517), written from the formulas: one block forward, then one backward.

    log D_ij = sum_{j < m <= i} log sigmoid(f_m) + i_j  (j <= i)      m_i = max_j log D_ij
    C_ij = (q_i . k_j) / sqrt(D) e^{log D_ij - m_i}
    h_i = sum_j C_ij v_j / (max(|sum_j C_ij|, e^{-m_i}) + 1e-6)

q and k come from the values' causal convolution; i and f, the input and the forget gate, from q, k and v.
"""

import torch
from torch import Tensor, nn

from ....kernels import decay_scan
from .operator import Operator
from .packed import CausalConv


class OffsetNorm(nn.Module):
    """LayerNorm over the channels of each of ``groups`` whose scale is 1 + weight."""

    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.unflatten(-1, (self.groups, -1))
        normal = nn.functional.layer_norm(grouped, grouped.shape[-1:], eps=1e-5).flatten(-2)
        return normal * (1 + self.weight) + self.bias


class BlockDiagonal(nn.Module):
    """A linear layer of C / width blocks that do not meet; weight (C / width, width out, width in)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels // width, width, width))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.normal_(self.weight, std=(2 / (5 * width)) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        blocks = x.unflatten(-1, (len(self.weight), -1))
        return torch.einsum("gtbi,boi->gtbo", blocks, self.weight).flatten(-2) + self.bias


class Cell(nn.Module):
    """Gates, the normalised scan, and the norm over heads."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.igate = nn.Linear(3 * channels, heads)
        self.fgate = nn.Linear(3 * channels, heads)
        self.outnorm = OffsetNorm(channels, heads)
        for gate in (self.igate, self.fgate):
            nn.init.zeros_(gate.weight)
        nn.init.normal_(self.igate.bias, std=0.1)
        with torch.no_grad():
            self.fgate.bias.copy_(torch.linspace(3, 6, heads))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> Tensor:
        qkv = torch.cat([q, k, v], -1)
        take, keep = (gate(qkv) for gate in (self.igate, self.fgate))
        take, keep = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (take, keep))
        q, k, v = (x.unflatten(-1, (self.heads, -1)) for x in (q, k, v))
        h, _ = decay_scan(
            q,
            k,
            v,
            nn.functional.logsigmoid(keep),
            normalizer="max",
            input_gate=take,
            scale=q.shape[-1] ** -0.5,
            reverse=reverse,
            cu_seqlens=cu_seqlens,
        )
        return self.outnorm(h.flatten(2))


class Conv(nn.Module):
    """The convolution under its official name, ``conv.conv``."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.conv = CausalConv(channels, taps)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> Tensor:
        return self.conv(x, cu_seqlens, reverse)


class Layer(nn.Module):
    """Up to twice the width, convolution, cell, skip, gate, down."""

    def __init__(self, channels: int, heads: int, expand: int, taps: int, block_width: int) -> None:
        super().__init__()
        inner = expand * channels
        self.proj_up = nn.Linear(channels, 2 * inner)
        self.conv = Conv(inner, taps)
        self.q_proj = BlockDiagonal(inner, block_width)
        self.k_proj = BlockDiagonal(inner, block_width)
        self.v_proj = BlockDiagonal(inner, block_width)
        self.mlstm_cell = Cell(inner, heads)
        self.learnable_skip = nn.Parameter(torch.ones(inner))
        self.proj_down = nn.Linear(inner, channels)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> Tensor:
        a, z = self.proj_up(x).chunk(2, -1)
        c = nn.functional.silu(self.conv(a, cu_seqlens, reverse))
        h = self.mlstm_cell(self.q_proj(c), self.k_proj(c), self.v_proj(a), cu_seqlens, reverse)
        return self.proj_down((h + self.learnable_skip * c) * nn.functional.silu(z))


class Direction(nn.Module):
    """Norm and layer of one direction."""

    def __init__(self, channels: int, *words: int) -> None:
        super().__init__()
        self.norm = OffsetNorm(channels)
        self.layer = Layer(channels, *words)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> Tensor:
        return self.layer(self.norm(x), cu_seqlens, reverse)


class MlstmBlock(Operator):
    """Two residual blocks in series, the second from each sequence's last token to its first.

    heads: of the inner width, ``expand`` C.  taps: tokens of the causal convolution.  block_width: channels
    in a block of the projections to q, k and v.  Others: ``Operator``.
    """

    def __init__(
        self,
        channels: int,
        *,
        layer_id: int = 0,
        n_layer: int = 1,
        drop_path: float = 0.0,
        heads: int = 4,
        expand: int = 2,
        taps: int = 4,
        block_width: int = 4,
    ) -> None:
        super().__init__(channels, layer_id=layer_id, n_layer=n_layer, drop_path=drop_path)
        inner = expand * channels
        for name, part in (("heads", heads), ("block_width", block_width)):
            if part < 1 or inner % part:
                raise ValueError(f"{name} must be >= 1 and divide expand * channels = {inner}, got {part}")
        self.rowwise_from_top_left = Direction(channels, heads, expand, taps, block_width)
        self.rowwise_from_bot_right = Direction(channels, heads, expand, taps, block_width)

    def mix(self, x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        x = x + self.drop_path(self.rowwise_from_top_left(x, cu_seqlens, False), cu_seqlens)
        return x + self.drop_path(self.rowwise_from_bot_right(x, cu_seqlens, True), cu_seqlens)
