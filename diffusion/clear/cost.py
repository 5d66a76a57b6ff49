"""What CLEAR costs, counted: pairs of query and key, and operations."""

from typing import Any

import torch

from ..method import Cost
from .attention import Grid
from .options import ClearOptions


def window_pairs(grid: Grid, radius: float) -> int:
    """Pairs of image tokens with dy^2 + dx^2 < radius^2, clipped at the grid's edges."""
    reach = min(max(grid) - 1, int(radius))
    distance = torch.arange(-reach, reach + 1, dtype=torch.int64)
    rows, columns = ((size - distance.abs()).clamp(min=0) for size in grid)  # pairs that far apart
    near = distance[:, None] ** 2 + distance**2 < radius**2
    return int((near * rows[:, None] * columns).sum())


def pooled_keys(grid: Grid, options: ClearOptions) -> int:
    if options.pooled_tokens is not None:
        return options.pooled_tokens[0] * options.pooled_tokens[1]
    f = options.down_factor
    return (grid[0] // f) * (grid[1] // f) if f > 1 else 0


def attention_pairs(grid: Grid, text: int, options: ClearOptions) -> int:
    """Pairs of query and key: window, text and pooled keys of image queries; all tokens of text queries."""
    image = grid[0] * grid[1]
    pooled = pooled_keys(grid, options)
    return window_pairs(grid, options.radius) + image * (text + pooled) + text * (image + text)


def attention_flops(pairs: int, width: int) -> int:
    """Scores and weighted values of all heads, ``width`` columns together; a multiply-add counts 2."""
    return 4 * pairs * width


def projection_flops(module: Any, image: int, text: int) -> int:
    """q, k, v and output of the image tokens, and of the text tokens where the module projects them apart."""
    square = 2 * module.inner_dim * module.query_dim
    if module.pre_only:  # FLUX's single blocks: text and image in one sequence, no output projection
        return 3 * square * (image + text)
    apart = 0 if module.added_kv_proj_dim is None else (3 if module.context_pre_only else 4) * text
    return square * (4 * image + apart)


def cost_of(module: Any, grid: Grid, text: int) -> Cost:
    options: ClearOptions = module.clear_options
    image, width = grid[0] * grid[1], module.inner_dim
    projections = projection_flops(module, image, text)
    pooling = 2 * 2 * image * width if options.pooled else 0
    mixing = attention_flops(attention_pairs(grid, text, options), width)
    return Cost(
        flops=projections + pooling + mixing,
        softmax_flops=projections + attention_flops((image + text) ** 2, width),
        values=peak_widths(module) * width,
    )


def peak_widths(module: Any) -> int:
    """Numbers a token at the peak, in widths of the module. In half precision norms, rotary are float32."""
    half = module.to_q.weight.element_size() < 4
    if module.TEXT_FIRST:  # FLUX: q, k, v while one of them is rotated
        return 10 if half else 7
    return 6 if half and module.norm_q is not None else 5  # q, k, v, y and what comes out
