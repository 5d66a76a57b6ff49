"""LION's RWKV-6 ("Finch", arXiv 2404.05892) with a scan in both directions that share all weights.

    y_t = r_t (diag(u) k_t v_t^T + sum_{s != t} prod_m a_m k_s v_s^T)      m strictly between s and t

a_t = exp(-exp(w_t)) per key channel, w_t from the token; how a token is mixed with the one before it comes
from the token too. Any head width and any number of tokens.
"""

import torch
from torch import Tensor, nn

from ....kernels import decay_scan
from .operator import Operator, heads_for
from .packed import places, shifted

MIXES = ("w", "k", "v", "r", "g")  # the order of the low-rank mixes in time_maa_w1 and time_maa_w2


class Depth:
    """How far up the network a block is: what RWKV-6's initial values depend on."""

    def __init__(self, channels: int, layer_id: int, n_layer: int) -> None:
        self.up = layer_id / max(n_layer - 1, 1)  # 0 .. 1
        self.down = 1 - layer_id / n_layer  # 1 .. almost 0
        self.channel = torch.arange(channels) / channels
        self.spread = torch.arange(channels) / max(channels - 1, 1)

    def mix(self, power: float = 1.0) -> Tensor:
        return self.channel ** (power * self.down)

    def decay(self) -> Tensor:
        """w of slow to fast channels."""
        return -6 + 5 * self.spread ** (0.7 + 1.3 * self.up)

    def bonus(self) -> Tensor:
        zigzag = ((torch.arange(len(self.spread)) + 1) % 3 - 1) * 0.1
        return self.up * (1 - self.spread) + zigzag


class TimeMix(nn.Module):
    """The attention half: shift, data-dependent mixes, two-way scan, norm over heads, gate."""

    def __init__(self, channels: int, heads: int, depth: Depth, mix_rank: int, decay_rank: int) -> None:
        super().__init__()
        self.heads = heads
        keep = depth.mix()
        starts = {
            "x": 1 - keep,
            "w": 1 - keep,
            "k": 1 - keep,
            "v": 1 - keep - 0.3 * depth.up,
            "r": 1 - depth.mix(0.5),
            "g": 1 - depth.mix(0.5),
        }
        for name, start in starts.items():
            self.register_parameter(f"time_maa_{name}", nn.Parameter(start.view(1, 1, -1)))
        self.time_maa_w1 = nn.Parameter(torch.zeros(channels, len(MIXES) * mix_rank))
        self.time_maa_w2 = nn.Parameter(torch.empty(len(MIXES), mix_rank, channels).uniform_(-0.01, 0.01))
        self.time_decay = nn.Parameter(depth.decay().view(1, 1, -1))
        self.time_decay_w1 = nn.Parameter(torch.zeros(channels, decay_rank))
        self.time_decay_w2 = nn.Parameter(torch.empty(decay_rank, channels).uniform_(-0.01, 0.01))
        self.time_faaaa = nn.Parameter(depth.bonus().view(heads, -1))
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.receptance = nn.Linear(channels, channels, bias=False)
        self.gate = nn.Linear(channels, channels, bias=False)
        self.output = nn.Linear(channels, channels, bias=False)
        self.ln_x = nn.GroupNorm(heads, channels, eps=1e-5)

    def mixes(self, x: Tensor, before: Tensor) -> list[Tensor]:
        """The token mixed with the one ``before`` it, in five ways: (G, T, C) each, in the order of MIXES."""
        difference = before - x
        base = x + difference * self.time_maa_x
        low = torch.tanh(base @ self.time_maa_w1).unflatten(-1, (len(MIXES), -1))
        shifts = torch.einsum("gtmr,mrc->mgtc", low, self.time_maa_w2)
        return [
            x + difference * (getattr(self, f"time_maa_{name}") + own)
            for name, own in zip(MIXES, shifts, strict=True)
        ]

    def forward(self, x: Tensor, before: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        x_w, x_k, x_v, x_r, x_g = self.mixes(x, before)
        tokens = (self.receptance(x_r), self.key(x_k), self.value(x_v))
        w = self.time_decay + torch.tanh(x_w @ self.time_decay_w1) @ self.time_decay_w2
        log_decay = -w.to(torch.promote_types(w.dtype, torch.float32)).exp()
        scanned = [t.unflatten(-1, (self.heads, -1)) for t in (*tokens, log_decay)]
        own, _ = decay_scan(*scanned, bonus=self.time_faaaa, exclusive=True, cu_seqlens=cu_seqlens)
        later, _ = decay_scan(*scanned, exclusive=True, reverse=True, cu_seqlens=cu_seqlens)
        y = self.ln_x((own + later).flatten(2).flatten(0, 1)).view(x.shape)
        return self.output(y * nn.functional.silu(self.gate(x_g)))


class ChannelMix(nn.Module):
    """The feed-forward half: squared ReLU, gated by the receptance.

    Its inputs are mix x + (1 - mix) (before - x): upstream's form, in which x weighs 2 mix - 1 in all.
    """

    def __init__(self, channels: int, depth: Depth, hidden: int) -> None:
        super().__init__()
        self.spatial_mix_k = nn.Parameter(depth.mix().view(1, 1, -1))
        self.spatial_mix_r = nn.Parameter(depth.mix().view(1, 1, -1))
        self.key = nn.Linear(channels, hidden, bias=False)
        self.receptance = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        difference = before - x
        x_k, x_r = (torch.lerp(difference, x, mix) for mix in (self.spatial_mix_k, self.spatial_mix_r))
        return self.receptance(x_r).sigmoid() * self.value(self.key(x_k).relu().square())


class RwkvBlock(Operator):
    """x + gamma1 TimeMix(LN x), then x + gamma2 ChannelMix(LN x); the network's first block starts by LN x.

    heads: any that divide C.  ffn_ratio: hidden width over C.  mix_rank, decay_rank: of the
    low-rank parts.  init_values: gamma1 and gamma2 at the start.  Others: ``Operator``.
    """

    def __init__(
        self,
        channels: int,
        *,
        layer_id: int = 0,
        n_layer: int = 1,
        drop_path: float = 0.0,
        heads: int = 4,
        ffn_ratio: int = 4,
        mix_rank: int = 32,
        decay_rank: int = 64,
        init_values: float = 1e-5,
    ) -> None:
        super().__init__(channels, layer_id=layer_id, n_layer=n_layer, drop_path=drop_path)
        depth = Depth(channels, layer_id, n_layer)
        self.ln0 = nn.LayerNorm(channels) if layer_id == 0 else None
        self.ln1 = nn.LayerNorm(channels)
        self.ln2 = nn.LayerNorm(channels)
        self.att = TimeMix(channels, heads_for(channels, heads), depth, mix_rank, decay_rank)
        self.ffn = ChannelMix(channels, depth, ffn_ratio * channels)
        self.gamma1 = nn.Parameter(torch.full((channels,), float(init_values)))
        self.gamma2 = nn.Parameter(torch.full((channels,), float(init_values)))

    def mix(self, x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        place = places(x, cu_seqlens)
        if self.ln0 is not None:
            x = self.ln0(x)
        y = self.ln1(x)
        branch = self.gamma1 * self.att(y, shifted(y, 1, place), cu_seqlens)
        x = x + self.drop_path(branch, cu_seqlens)
        y = self.ln2(x)
        return x + self.drop_path(self.gamma2 * self.ffn(y, shifted(y, 1, place)), cu_seqlens)
