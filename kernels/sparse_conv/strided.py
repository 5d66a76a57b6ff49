"""Pair lists of a convolution with outputs at every cell that any input touches."""

import torch
from torch import Tensor

from .arguments import check_coords, check_geometry, check_shape
from .geometry import Triple, cells, out_size
from .keys import padded_keys, sorted_ranks
from .pairs import ConvPairs, joined


def strided_pairs(
    coords: Tensor,
    shape: Triple,
    kernel_size: int | Triple,
    stride: int | Triple,
    padding: int | Triple = 0,
    *,
    check: bool = True,
) -> tuple[ConvPairs, Tensor, Triple]:
    """Pairs of a convolution with an output at every cell that any input touches.

    Output cell o sums w[k] * input[o * stride - padding + k] over kernel cells k, axis by axis.

    Args:
        coords: (M, 4) int64 rows (b, z, y, x) within the grid, in any order, no row twice; M may be 0.
        shape: cells along (z, y, x).
        kernel_size, stride (>= 1), padding (>= 0): one number, or one along each of (z, y, x).
        check: False leaves out the look at the values of coords.
    Returns: the pairs; coordinates of the outputs, (n_out, 4) int64, sorted by (b, z, y, x); and their grid,
        floor((size + 2 padding - kernel) / stride) + 1 cells along each axis.
    Raises: ShapeError, ValueError or TypeError that name the argument.
    """
    op = "strided_pairs"
    shape = check_shape(op, shape)
    kernel, stride, padding = check_geometry(op, kernel_size, stride, padding)
    grid = out_size(op, shape, kernel, stride, padding)
    larger = tuple(max(sizes) for sizes in zip(shape, grid, strict=True))
    check_coords(op, coords, shape, larger, values=check)
    order, _ = sorted_ranks(op, padded_keys(coords, shape, (1, 1, 1))[0], check)
    inputs, touched = [], []
    for cell in cells(kernel):
        own, keys = _touched(coords, cell, grid, stride, padding)
        inputs.append(own)
        touched.append(keys)
    found, rows = torch.unique(torch.cat(touched), return_inverse=True)
    outputs = list(rows.split([len(own) for own in inputs]))
    if order is not None:
        for k, own in enumerate(outputs):
            rising = torch.argsort(own)
            inputs[k], outputs[k] = inputs[k][rising], own[rising]
    pairs = joined(inputs, outputs, len(coords), len(found), kernel, -1)
    return pairs, _cells_of(found, grid), grid


def _touched(
    coords: Tensor, cell: Triple, grid: Triple, stride: Triple, padding: Triple
) -> tuple[Tensor, Tensor]:
    """Rows that reach an output through one kernel cell, and the keys of those outputs."""
    key, inside = coords[:, 0], None
    for axis in range(3):
        reach = coords[:, axis + 1] + (padding[axis] - cell[axis])
        out = torch.div(reach, stride[axis], rounding_mode="floor")
        fits = (out * stride[axis] == reach) & (out >= 0) & (out < grid[axis])
        inside = fits if inside is None else inside & fits
        key = key * grid[axis] + out
    own = inside.nonzero().squeeze(1)
    return own, key[own]


def _cells_of(keys: Tensor, grid: Triple) -> Tensor:
    """Keys without padding (M,) -> rows (b, z, y, x)."""
    columns = []
    for size in reversed(grid):
        columns.append(keys % size)
        keys = torch.div(keys, size, rounding_mode="floor")
    return torch.stack([keys, *reversed(columns)], 1)
