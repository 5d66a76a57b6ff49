"""LION's Mamba (arXiv 2312.00752): a selective scan forward and one backward, with parameters of their own.

    s_t = exp(D_t A) s_{t-1} + D_t u_t B_t^T      y_t = s_t C_t + D u_t      A = -exp(A_log)

u is the convolved input; step D_t, B_t and C_t come from it. Both scans share the projections in and out and
the gate. The backward convolution looks at later tokens.
"""

import math

import torch
from torch import Tensor, nn

from ....kernels import selective_scan
from .operator import Operator
from .packed import CausalConv

STEPS = (1e-3, 0.1)  # softplus of the steps' biases at the start, log-uniform


class Mixer(nn.Module):
    """The two scans, under the official names; those of the backward scan end in ``_b``."""

    def __init__(self, channels: int, state: int, expand: int, taps: int) -> None:
        super().__init__()
        inner, self.state, self.rank = expand * channels, state, math.ceil(channels / 16)
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv1d, self.conv1d_b = CausalConv(inner, taps), CausalConv(inner, taps)
        self.x_proj, self.x_proj_b = (nn.Linear(inner, self.rank + 2 * state, bias=False) for _ in range(2))
        self.dt_proj, self.dt_proj_b = (nn.Linear(self.rank, inner) for _ in range(2))
        decay = torch.arange(1, state + 1, dtype=torch.float32).log().repeat(inner, 1)
        self.A_log, self.A_b_log = nn.Parameter(decay), nn.Parameter(decay.clone())
        self.D, self.D_b = nn.Parameter(torch.ones(inner)), nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, channels, bias=False)
        for layer in (self.dt_proj, self.dt_proj_b):
            _start_steps(layer)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        u, z = self.in_proj(x).chunk(2, -1)
        ahead = (self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D)
        back = (self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b)
        y = self.scan(u, *ahead, cu_seqlens, False) + self.scan(u, *back, cu_seqlens, True)
        return self.out_proj(y * nn.functional.silu(z))

    def scan(
        self,
        u: Tensor,
        conv: CausalConv,
        x_proj: nn.Linear,
        dt_proj: nn.Linear,
        A_log: Tensor,
        D: Tensor,
        cu_seqlens: Tensor | None,
        reverse: bool,
    ) -> Tensor:
        u = nn.functional.silu(conv(u, cu_seqlens, reverse))
        low, B, C = x_proj(u).split([self.rank, self.state, self.state], -1)
        delta = nn.functional.softplus(dt_proj(low))
        y, _ = selective_scan(u, delta, -A_log.exp(), B, C, D, reverse=reverse, cu_seqlens=cu_seqlens)
        return y


def _start_steps(layer: nn.Linear) -> None:
    """Steps from 0.001 to 0.1 whatever the input, and a projection that keeps its variance."""
    nn.init.uniform_(layer.weight, -(layer.in_features**-0.5), layer.in_features**-0.5)
    low, high = (math.log(x) for x in STEPS)
    step = torch.empty(layer.out_features).uniform_(low, high).exp()
    with torch.no_grad():
        layer.bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus of it is the step


class MambaBlock(Operator):
    """x + LN(Mixer(x)).

    state: numbers per inner channel that the scan carries.  expand: inner width over C.  taps: tokens of the
    convolutions.  Others: ``Operator``.
    """

    def __init__(
        self,
        channels: int,
        *,
        layer_id: int = 0,
        n_layer: int = 1,
        drop_path: float = 0.0,
        state: int = 16,
        expand: int = 2,
        taps: int = 4,
    ) -> None:
        super().__init__(channels, layer_id=layer_id, n_layer=n_layer, drop_path=drop_path)
        self.mamba = Mixer(channels, state, expand, taps)
        self.norm = nn.LayerNorm(channels)

    def mix(self, x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        return x + self.drop_path(self.norm(self.mamba(x, cu_seqlens)), cu_seqlens)
