"""The attentions of L2ViT, arXiv 2501.16182: linear over all tokens, and softmax inside windows.

    a_t = relu(q_t),  b_s = relu(k_s)
    y_t = tau_h (a_t . sum_s b_s v_s^T) / max(a_t . sum_s b_s, 100)        tau_h learned, starts at d^-1/2

d channels a head. The denominator is a sum over tokens and its bound 100 does not change with the resolution;
where the bound holds, no gradient goes through the denominator. No rotary, no gate, no local enhancement:
position comes from the convolutions around it, and locality from ``LocalConcentration``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import linear_attn
from ..layers import DepthwiseConv, Rope, register_mixer
from .windows import join_windows, split_windows


class QkvAttention(nn.Module):
    """One Linear to q, k, v and one Linear out; subclasses say what happens between them."""

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
        self.proj = nn.Linear(dim, dim, **dd)

    def split_heads(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, C) -> q, k, v, each (B, N, heads, C / heads), strided views of one tensor."""
        return self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)

    def softmax(self, tokens: Tensor) -> Tensor:
        """Softmax attention of every token over its row: (B, N, C) -> (B, N, C), before ``proj``."""
        q, k, v = (t.transpose(1, 2) for t in self.split_heads(tokens))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@register_mixer("l2")
class LinearGlobalAttention(QkvAttention):
    """The module's equation over all H * W tokens; (B, H, W, C) -> (B, H, W, C)."""

    bound = 100.0  # of the denominator, at every resolution

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, heads, device=device, dtype=dtype)
        start = (dim // heads) ** -0.5
        self.temperature = nn.Parameter(torch.full((heads,), start, device=device, dtype=dtype))

    def forward(self, x: Tensor, rope: Rope | None = None) -> Tensor:
        q, k, v = self.split_heads(x.flatten(1, 2))
        y = linear_attn(q, k, v, feature="relu", norm="clamp", scale=self.temperature, cmin=self.bound)
        return self.proj(y.to(x.dtype).flatten(2).unflatten(1, x.shape[1:3]))


class SoftmaxGlobalAttention(QkvAttention):
    """Softmax over all H * W tokens with the same two Linears, the quadratic twin; on (B, H, W, C)."""

    def forward(self, x: Tensor, rope: Rope | None = None) -> Tensor:
        return self.proj(self.softmax(x.flatten(1, 2)).unflatten(1, x.shape[1:3]))


class WindowAttention(QkvAttention):
    """Softmax inside disjoint square windows, no shift, mask or position bias; (B, H, W, C) -> (B, H, W, C).

    Zeros fill the windows that reach over the right and the bottom edge. They are not masked: such a token is
    a key and a value equal to the bias of ``qkv``.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, heads, device=device, dtype=dtype)
        self.window_size = window_size

    def forward(self, x: Tensor, rope: Rope | None = None) -> Tensor:
        windows = self.proj(self.softmax(split_windows(x, self.window_size)))
        return join_windows(windows, self.window_size, x.shape[:3])


class LocalConcentration(nn.Module):
    """Depthwise 7x7, exact GELU, BatchNorm, depthwise 7x7; (B, H, W, C) -> (B, H, W, C)."""

    def __init__(
        self,
        dim: int,
        kernel_size: int = 7,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.conv1 = DepthwiseConv(dim, kernel_size, **dd)
        self.act = nn.GELU()
        self.norm = nn.BatchNorm2d(dim, **dd)
        self.conv2 = DepthwiseConv(dim, kernel_size, **dd)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv1(x)).permute(0, 3, 1, 2)
        return self.conv2(self.norm(x).permute(0, 2, 3, 1))
