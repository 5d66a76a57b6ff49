"""The pre-norm block of InLine-DeiT, -PVT and -Swin.

x <- x + drop_path(attn(norm1 x));  x <- x + drop_path(mlp(norm2 x))          exact GELU in the MLP
"""

import torch
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from .mixer import InLineAttention
from .positions import Grid


class Block(nn.Module):
    """Mixer branch and feed-forward branch; (B, h, w, C) -> (B, h, w, C).

    Args:
        attn: the mixer, on (B, h, w, C).
        eps: of both LayerNorms.
    """

    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        mlp_ratio: float = 4.0,
        eps: float = 1e-6,
        drop_path: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps, **dd)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=eps, **dd)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), **dd)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class TokenBlock(Block):
    """The block on tokens (B, prefix + h * w, C), prefix tokens in front: InLine-DeiT's."""

    def __init__(
        self,
        dim: int,
        heads: int,
        prefix: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(dim, InLineAttention(dim, heads, **dd), mlp_ratio, 1e-6, drop_path, **dd)
        self.prefix = prefix

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        mixed = self.attn.on_tokens(self.norm1(tokens), grid, self.prefix)
        tokens = tokens + self.drop_path(mixed)
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))
