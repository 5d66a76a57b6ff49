"""Pair lists of a convolution whose outputs are its input cells."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .arguments import check_coords, check_kernel, check_shape
from .geometry import Triple, cells
from .keys import padded_keys, sorted_ranks, spaced
from .pairs import ConvPairs, joined


def submanifold_pairs(
    coords: Tensor, shape: Triple, kernel_size: int | Triple = (3, 3, 3), *, check: bool = True
) -> ConvPairs:
    """Pairs of a convolution whose outputs are its input cells, in the same order of rows.

    Args:
        coords: (M, 4) int64 rows (b, z, y, x) within the grid, in any order, no row twice; M may be 0.
        shape: cells along (z, y, x).
        kernel_size: odd, one number or one along each of (z, y, x).
        check: False leaves out the look at the values of coords (for coordinates that have been checked).
    Raises: ShapeError, ValueError or TypeError that name the argument.
    """
    op = "submanifold_pairs"
    shape, kernel = check_shape(op, shape), check_kernel(op, kernel_size, odd=True)
    check_coords(op, coords, shape, spaced(shape, kernel), values=check)
    keys, strides = padded_keys(coords, shape, kernel)
    order, ranks = sorted_ranks(op, keys, check)
    rows = torch.arange(len(keys), device=keys.device)
    count = kernel[0] * kernel[1] * kernel[2]
    middle = count // 2
    inputs, outputs = [rows] * count, [rows] * count
    for cell, hit, found in _first_half(keys, ranks, strides, kernel):
        own = hit.nonzero().squeeze(1)
        other = found[own] if order is None else order[found[own]]
        inputs[cell], outputs[cell] = other, own
        inputs[count - 1 - cell], outputs[count - 1 - cell] = _by_output(own, other, order)
    return joined(inputs, outputs, len(keys), len(keys), kernel, middle)


def _first_half(
    keys: Tensor, ranks: Tensor, strides: Triple, kernel: Triple
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(kernel cell, hit (M,), place among the sorted keys (M,)) of the cells before the middle one.

    One search finds a whole row of kernel cells along x: their keys are consecutive numbers.
    """
    middle = kernel[0] * kernel[1] * kernel[2] // 2
    last = len(ranks) - 1
    for cell in range(0, middle, kernel[2]):
        dz, dy, dx = (i - k // 2 for i, k in zip(cells(kernel)[cell], kernel, strict=True))
        wanted = keys + (dz * strides[0] + dy * strides[1] + dx)
        place = torch.searchsorted(ranks, wanted)
        for step in range(min(kernel[2], middle - cell)):
            found = place.clamp(max=last)
            hit = ranks[found] == wanted
            yield cell + step, hit, found
            place = place + hit
            wanted = wanted + 1


def _by_output(inputs: Tensor, outputs: Tensor, order: Tensor | None) -> tuple[Tensor, Tensor]:
    """A transposed cell's pairs with rising outputs; they rise already where the rows themselves do."""
    if order is None:
        return inputs, outputs
    rising = torch.argsort(outputs)
    return inputs[rising], outputs[rising]
