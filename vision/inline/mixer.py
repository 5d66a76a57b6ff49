"""InLine: linear attention that is injective, and local, arXiv 2412.06590.

    a_ij = s/N q_i . (k_j - kbar) + 1/N        rows sum to 1, entries may be negative; s = d^-1/2
    o_i  = sum_j a_ij v_j = vbar + s/N q_i^T sum_j (k_j - kbar)(v_j - vbar)^T                 O(N)
    y    = W_o (o + K(mu) * v)                 K(mu): 3x3 taps a channel, from the mean token mu, see local.py

N tokens (a class token counts), d channels a head, kbar and vbar means over the N tokens. The subtraction in
the place of softmax's division keeps different queries apart: q -> q + c and q -> 2 q give other weights.
The paper's formula leaves s out; the authors' code has it.
"""

import torch
from torch import Tensor, nn

from ...kernels import linear_attn
from ..layers import Rope, register_mixer
from .local import LocalKernel, convolve_each

Grid = tuple[int, int]


def inline_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """o of the equation: (B, N, H, d) three times -> (B, N, H, d). mask (B, N): False counts in no mean."""
    return linear_attn(q, k, v, norm="sub", mask=mask).to(v.dtype)


def mean_token(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """mu, (B, N, C) -> (B, C); with a mask (B, N), of the tokens where it is True."""
    if mask is None:
        return tokens.mean(1)
    weight = mask.to(tokens.dtype).unsqueeze(-1)
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


@register_mixer("inline")
class InLineAttention(nn.Module):
    """Injective linear attention and the predicted local residual; (B, h, w, C) -> (B, h, w, C)."""

    uses_rope = False

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.local = LocalKernel(dim, heads, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: Tensor, rope: Rope | None = None, mask: Tensor | None = None) -> Tensor:
        """mask: (B, h, w) bool, False where a padded batch holds no image; what comes out there is 0-padded
        convolution and attention of no meaning.
        """
        mask = None if mask is None else mask.flatten(1, 2)
        grid = x.shape[1], x.shape[2]
        return self.on_tokens(x.flatten(1, 2), grid, mask=mask).unflatten(1, grid)

    def on_tokens(self, tokens: Tensor, grid: Grid, prefix: int = 0, mask: Tensor | None = None) -> Tensor:
        """(B, prefix + h * w, C) -> the same, grid = (h, w); prefix tokens take no part in the local term."""
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        o = inline_attention(q, k, v, mask).flatten(2)
        image = v[:, prefix:].flatten(2)
        if mask is not None:  # as beyond the border: zero
            image = image * mask[:, prefix:].to(image.dtype).unsqueeze(-1)
        taps = self.local(mean_token(tokens, mask))
        local = convolve_each(image.unflatten(1, grid), taps).flatten(1, 2)
        if prefix:
            local = torch.cat((torch.zeros_like(o[:, :prefix]), local), 1)
        return self.proj(o + local)
