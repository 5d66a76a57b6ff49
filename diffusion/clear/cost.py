"""What CLEAR costs, counted: pairs of query and key, and operations."""

from typing import Any

import torch

from ..method import Cost
from .attention import Grid
from .options import ClearOptions


def window_pairs(grid: Grid, radius: float) -> int:
    """Pairs of image tokens with dy^2 + dx^2 < radius^2, clipped at the grid's edges."""
    ways = []  # along each axis: the squared distance and how many pairs lie that far apart
    for size in grid:
        distance = torch.arange(1 - size, size, dtype=torch.float64)
        ways.append((distance**2, size - distance.abs()))
    (dy, rows), (dx, columns) = ways
    total = 0
    for squared, count in zip(dy.tolist(), rows.tolist(), strict=True):
        if squared < radius**2:
            total += int(count) * int(columns[dx < radius**2 - squared].sum())
    return total


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


PEAK = {True: 8, False: 8}


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
        values=PEAK[module.pre_only or module.added_kv_proj_dim is not None] * width,
    )
