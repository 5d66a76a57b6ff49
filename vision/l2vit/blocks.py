"""L2ViT's blocks, on token images (B, H, W, C).

window block:  x += pos1(x);  x += attn(norm1 x);  x += pos2(x);            x += ffn(norm2 x)
global block:  x += pos1(x);  x += attn(norm1 x);  x += lcm(norm_local x);  x += ffn(norm2 x)
"""

import torch
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from ..layers import ResidualDepthwiseConv
from .mixer import LinearGlobalAttention, LocalConcentration, SoftmaxGlobalAttention, WindowAttention


class WindowBlock(nn.Module):
    """Softmax attention inside windows, and two position convolutions; (B, H, W, C) -> (B, H, W, C)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        window_size: int,
        ffn_ratio: float = 4.0,
        drop_path: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.pos1 = ResidualDepthwiseConv(dim, 3, **dd)
        self.norm1 = nn.LayerNorm(dim, eps=1e-5, **dd)
        self.attn = WindowAttention(dim, heads, window_size, **dd)
        self.pos2 = ResidualDepthwiseConv(dim, 3, **dd)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5, **dd)
        self.ffn = Mlp(dim, int(dim * ffn_ratio), **dd)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pos1(x)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = self.pos2(x)
        return x + self.drop_path(self.ffn(self.norm2(x)))


class GlobalBlock(nn.Module):
    """Attention over all tokens, then local concentration; (B, H, W, C) -> (B, H, W, C).

    Args:
        softmax: True gives the quadratic twin, softmax in the place of linear attention.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        softmax: bool = False,
        ffn_ratio: float = 4.0,
        drop_path: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        attention = SoftmaxGlobalAttention if softmax else LinearGlobalAttention
        self.pos1 = ResidualDepthwiseConv(dim, 3, **dd)
        self.norm1 = nn.LayerNorm(dim, eps=1e-5, **dd)
        self.attn = attention(dim, heads, **dd)
        self.norm_local = nn.LayerNorm(dim, eps=1e-5, **dd)
        self.lcm = LocalConcentration(dim, **dd)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5, **dd)
        self.ffn = Mlp(dim, int(dim * ffn_ratio), **dd)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pos1(x)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + self.drop_path(self.lcm(self.norm_local(x)))
        return x + self.drop_path(self.ffn(self.norm2(x)))
