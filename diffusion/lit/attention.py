"""LiT's self-attention, arXiv 2501.12976: ReLU linear attention with few heads, and a depthwise convolution.

    o_i = phi(q_i) sum_j phi(k_j)^T v_j / (phi(q_i) . sum_j phi(k_j) + eps)      phi = ReLU, per head
    y   = W_o (o + conv(u)) + b_o                                                u = v, or the input x

u lies on the grid of image tokens (rows, columns) that comes with each call.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import ShapeError, linear_attn
from ..method import Grid
from ..swap import OwnProcessor

if TYPE_CHECKING:
    from .options import LitOptions


def relu_attention(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-6, eps_on: str = "sum") -> Tensor:
    """(B, N, H, D) three times -> (B, N, H, D).

    Args:
        eps_on: "sum": eps is added to the denominator above. "mean": to its mean over keys, and to phi too.
    """
    if eps_on == "sum":
        return linear_attn(q, k, v, feature="relu", norm="sum", eps=eps, eps_on="sum")
    q, k = F.relu(q) + eps, F.relu(k) + eps
    return linear_attn(q, k, v, norm="sum", eps=eps, eps_on="mean")


class GridConv(nn.Conv2d):
    """Depthwise convolution with zero padding and bias on tokens of a grid, (B, N, C) -> (B, N, C)."""

    def __init__(
        self,
        width: int,
        kernel_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            width, width, kernel_size, padding=kernel_size // 2, groups=width, device=device, dtype=dtype
        )

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        # the view is a channels_last image: no copy on either side
        image = tokens.unflatten(1, grid).permute(0, 3, 1, 2)
        return super().forward(image).permute(0, 2, 3, 1).flatten(1, 2)


class LitProcessor:
    """Stateless: weights and options lie on the attention module."""

    def __call__(
        self,
        attn: LitAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        grid: Grid | None = None,
    ) -> Tensor:
        """(B, N, C) -> (B, N, C).

        Args:
            attention_mask: None, or what ``grid_as_mask`` made: tokens cannot be masked.
            grid: rows and columns of the tokens, for the convolution.
        Raises: ValueError for a context or a mask, ShapeError for a grid that is missing or does not fit.
        """
        lit, x = attn.lit, hidden_states
        if encoder_hidden_states is not None:
            raise ValueError("encoder_hidden_states must be None: LiT replaces self-attention only")
        if attention_mask is not None:
            grid = grid_of_mask(attention_mask)
        v = attn.to_v(x)
        heads = (tokens.unflatten(-1, (lit.heads, -1)) for tokens in (attn.to_q(x), attn.to_k(x), v))
        y = relu_attention(*heads, lit.eps, lit.eps_on).flatten(2)
        if lit.kernel_size:
            y = y + attn.conv(x if lit.conv_on == "x" else v, checked_grid(grid, x))
        return attn.to_out[1](attn.to_out[0](y))


class LitAttention(OwnProcessor):
    """Mixin of the class that a swapped ``Attention`` gets."""

    PROCESSOR = LitProcessor
    METHOD = "lit"

    lit: LitOptions
    conv: GridConv


@cache
def lit_attention(cls: type) -> type:
    """The subclass of an attention class of diffusers whose modules compute LiT's attention."""
    return type("LitAttention", (LitAttention, cls), {"__module__": __name__})


def checked_grid(grid: Grid | None, x: Tensor) -> Grid:
    if grid is None:
        raise ShapeError(
            "lit: grid must be (rows, columns) of the image tokens, got None: call the whole model, or give "
            "the attention grid=(rows, columns)"
        )
    rows, columns = grid
    if rows * columns != x.shape[1]:
        raise ShapeError(f"lit: grid must hold {x.shape[1]} tokens, got {rows} x {columns}")
    return rows, columns


def grid_as_mask(x: Tensor, grid: Grid) -> Tensor:
    """A tensor without elements, (0, rows, columns), that carries the grid where only a mask can pass.

    PixArt hands its ``attention_mask`` to self-attention alone, but ``cross_attention_kwargs`` to both
    attentions, and the one to the text would warn of a word it does not know.
    """
    return x.new_empty((0, *grid))


def grid_of_mask(mask: Tensor) -> Grid:
    if mask.ndim != 3 or mask.shape[0]:
        raise ValueError(
            f"attention_mask must be None, got shape {tuple(mask.shape)}: LiT has no mask over image tokens. "
            "A mask over text belongs in encoder_attention_mask"
        )
    return mask.shape[1], mask.shape[2]
