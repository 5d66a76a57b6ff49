"""Device functions of the local attention kernels: tiles of the grid, what sees what, loads.

A block of queries or keys is a rectangle of the grid (WINDOWED) or a run of tokens. Scores are in base 2:
exp2 is what GPUs have. Importing this file imports triton.
"""

import triton
import triton.language as tl

# Sizes and strides, never specialised: a value of 1 or a multiple of 16 would be another variant.
INTEGERS = (
    *(name + axis for name in "qkvac" for axis in "bnh"),
    "rows", "width", "first", "query_rows", "reach_y", "reach_x", "limit",
    "query_image", "key_image", "flat_start", "flat_end", "n_extra", "block_start", "block_end",
    "out_start", "n_out", "n_queries", "n_split",
)  # fmt: skip


@triton.jit
def places(tile_y, tile_x, rows, width, TY: tl.constexpr, TX: tl.constexpr):
    """Row, column and existence of the TY TX tokens of a rectangle of the grid, row by row."""
    i = tl.arange(0, TY * TX)
    y = tile_y * TY + i // TX
    x = tile_x * TX + i % TX
    return y, x, (y < rows) & (x < width)


@triton.jit
def tiles_in_reach(start, reach, count, SIZE: tl.constexpr, STEP: tl.constexpr):
    """First of the runs of STEP places, and how many, that lie within ``reach`` of SIZE places from start.

    Runs cover places 0 .. count - 1; ``start`` may be outside.
    """
    low = tl.maximum(start - reach, 0) // STEP
    last = tl.minimum(start + SIZE - 1 + reach, count - 1)
    return low, tl.where(last < 0, 0, tl.maximum(last // STEP - low + 1, 0))


@triton.jit
def in_window(y, x, other_y, other_x, reach_y, reach_x, limit, CIRCLE: tl.constexpr):
    """(block, other block): which pairs of places see each other."""
    dy = tl.abs(y[:, None] - other_y[None, :])
    dx = tl.abs(x[:, None] - other_x[None, :])
    seen = (dy <= reach_y) & (dx <= reach_x)
    if CIRCLE:
        seen = seen & (dy * dy + dx * dx <= limit)
    return seen


@triton.jit
def load_operand(ptr, tokens, stride, columns, live, WIDTH: tl.constexpr, ALIGN: tl.constexpr):
    """(tokens, columns), zero outside: bfloat16 as it is, else as float32; stride counts ALIGN elements."""
    offsets = tokens.to(tl.int64)[:, None] * stride * ALIGN + columns[None, :]
    x = tl.load(ptr + offsets, mask=live[:, None] & (columns < WIDTH)[None, :], other=0.0)
    if tl.bfloat16 != ptr.dtype.element_ty:
        x = x.to(tl.float32)
    return x


@triton.jit
def part_of(start, end, split, n_split, STEP: tl.constexpr):
    """Part ``split`` of the tokens start .. end - 1 cut in n_split runs of whole steps."""
    span = tl.cdiv(tl.cdiv(end - start, STEP), n_split) * STEP
    low = tl.minimum(start + split * span, end)
    return low, tl.minimum(low + span, end)
