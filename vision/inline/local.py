"""InLine's local residual: a 3x3 depthwise convolution whose kernels each image predicts from its mean token.

    t = gelu(W1 mu + b1)      W1 (C, d), head by head: the d rows of a head act on its d inputs; t (C,)
    K = W2 t + b2             W2 (9 C, d), head by head; row 9 c + 3 i + j is channel c's tap (i, j)

C channels in heads of d; mu (C,) the mean token. The taps are not normalised.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HeadwiseLinear(nn.Module):
    """A Linear for every head: (B, heads * d) -> (B, out_dim), weight (out_dim, d), rows grouped by head."""

    def __init__(
        self,
        head_dim: int,
        heads: int,
        out_dim: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(torch.empty(out_dim, head_dim, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torch starts the grouped convolution that the authors use: uniform within d^-1/2."""
        bound = math.sqrt(1 / self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.unflatten(0, (self.heads, -1))  # (H, out_dim / H, d)
        y = torch.einsum("hod,bhd->bho", weight, x.unflatten(-1, (self.heads, -1)))
        return y.flatten(1) + self.bias


class LocalKernel(nn.Module):
    """The predicted taps: mean token mu (B, C) -> (B, C, 3, 3)."""

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
        self.fc1 = HeadwiseLinear(dim // heads, heads, dim, **dd)
        self.fc2 = HeadwiseLinear(dim // heads, heads, 9 * dim, **dd)

    def forward(self, mu: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(mu))).unflatten(-1, (-1, 3, 3))


def convolve_each(x: Tensor, taps: Tensor) -> Tensor:
    """Every image's own depthwise cross-correlation, zero padding 1.

    (B, h, w, C) and taps (B, C, 3, 3) -> (B, h, w, C). Eager: one convolution of B * C groups; measured on
    one thread at 7 to 112 tokens a side, nine shifted products take 2 to 4.5 times its CPU time forward and 2
    to 7 times with backward. Compiled, exported or traced: the nine products, since a number of groups is a
    constant there and would tie the program to one batch size.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _nine_products(x, taps)
    batch, height, width, dim = x.shape
    planes = x.permute(0, 3, 1, 2).reshape(1, batch * dim, height, width)
    y = F.conv2d(planes, taps.to(x.dtype).reshape(batch * dim, 1, 3, 3), padding=1, groups=batch * dim)
    return y.view(batch, dim, height, width).permute(0, 2, 3, 1)


def _nine_products(x: Tensor, taps: Tensor) -> Tensor:
    height, width = x.shape[1:3]
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    by_place = taps.to(x.dtype).flatten(2).permute(2, 0, 1)[:, :, None, None]  # (9, B, 1, 1, C)
    total = padded[:, :height, :width] * by_place[0]
    for n in range(1, 9):
        i, j = n // 3, n % 3
        total = total + padded[:, i : i + height, j : j + width] * by_place[n]
    return total
