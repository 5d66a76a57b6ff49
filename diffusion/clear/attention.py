"""CLEAR, arXiv 2412.16112: softmax over a disc of image tokens, all text tokens and, if wanted, pooled ones.

    y_i = sum_j exp(s_ij - lse_i) v_j        s_ij = scale q_i . k_j        lse_i = log sum_j exp(s_ij)

An image query sees the image keys with dy^2 + dx^2 < radius^2, all text keys and all pooled keys; a text
query sees all image and text keys and no pooled one. Pooled keys and values are sums over f x f blocks of
image tokens, weighted by ``spatial_weight``, or means over a fixed number of areas; keys after rotary.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ...kernels import local_attn
from .options import ClearOptions

Grid = tuple[int, int]


def clear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Grid,
    text: int,
    text_first: bool,
    options: ClearOptions,
    spatial_weight: Tensor | None,
    scale: float | None,
) -> Tensor:
    """(B, N, H, D) three times -> (B, N, H, D); N = text + grid rows x columns.

    Args:
        grid: (rows, columns) of the image tokens.
        text: number of text tokens, before the image (``text_first``, FLUX) or after it (SD3).
        spatial_weight: (1, 1, 1, f, 1, f, 1) of ``down_factor`` f > 1, else None.
        scale: of the scores; None: D^-1/2.
    Raises: ValueError for a grid that does not fit the tokens or the options.
    """
    extra = None
    if options.pooled:
        start = text if text_first else 0
        images = (x[:, start : start + grid[0] * grid[1]] for x in (k, v))
        extra = tuple(pooled(x, grid, options, spatial_weight) for x in images)
    places = {"grid": grid, "n_global": text, "global_first": text_first}
    return local_attn(q, k, v, radius=options.radius, extra_kv=extra, scale=scale, **places)[0]


def pooled(x: Tensor, grid: Grid, options: ClearOptions, spatial_weight: Tensor | None) -> Tensor:
    """Image tokens (B, N, H, D) -> (B, P, H, D)."""
    if options.pooled_tokens is not None:
        return pooled_areas(x, grid, options.pooled_tokens)
    f = options.down_factor
    if grid[0] % f or grid[1] % f:
        raise ValueError(
            f"grid must be divisible by down_factor {f}, got {grid[0]} x {grid[1]} image tokens. Choose a "
            f"size of which both sides are a multiple of {f} tokens, or a variant without down_factor"
        )
    blocks = x.unflatten(1, (grid[0] // f, f, grid[1] // f, f))
    weights = spatial_weight.view(f, f).to(x.dtype)
    return torch.einsum("bhiwjnd,ij->bhwnd", blocks, weights).flatten(1, 2)


def pooled_areas(x: Tensor, grid: Grid, areas: Grid) -> Tensor:
    """Means over ``areas`` of the grid; area i of P along n tokens: floor(i n / P) to ceil((i + 1) n / P)."""
    heads, dim = x.shape[2:]
    image = x.flatten(2).unflatten(1, grid).permute(0, 3, 1, 2)
    means = adaptive_avg_pool2d(image, areas)
    return means.permute(0, 2, 3, 1).flatten(1, 2).unflatten(2, (heads, dim))


def score_scale(dim: int, tokens: int, base: int, options: ClearOptions) -> float:
    """The proportional scale: sqrt(log_base(tokens) / D), with 10 tokens for one in the pooled variants.

    Args:
        tokens: image and text tokens of the sequence.
        base: tokens at which the model was trained, where the scale without pooling is the usual one.
    """
    tokens = tokens * (10 if options.pooled else 1)
    return math.sqrt(math.log(max(tokens, 2)) / math.log(max(base, 2)) / dim)
