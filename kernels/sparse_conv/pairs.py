"""Which input cell meets which output cell under each cell of a convolution's kernel: the pair lists.

Cells are looked up by int64 keys whose strides are longer than the grid by the kernel's radius, so a
neighbour beyond an edge has a key that no cell of another row, plane or sample has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .arguments import check_coords, check_geometry, check_kernel, check_shape
from .geometry import Triple, cells, out_size


@dataclass(frozen=True, kw_only=True)
class ConvPairs:
    """Pairs (input row, output row) of a sparse convolution, kernel cell by kernel cell.

    inputs, outputs: (P,) int64 rows.  offsets: (K + 1,) int64 on the CPU: pairs offsets[k] .. offsets[k + 1]
    belong to kernel cell k, where cells are counted in (z, y, x) order and output rows rise within a cell.
    n_in, n_out: rows of the input and of the output.  kernel_size: (kz, ky, kx).
    identity: the kernel cell that pairs every row with itself, -1 if there is none.
    ``cache`` holds what is made of the pairs alone.
    """

    inputs: Tensor
    outputs: Tensor
    offsets: Tensor
    n_in: int
    n_out: int
    kernel_size: Triple
    identity: int = -1
    cache: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.inputs)


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
    check_coords(op, coords, shape, values=check)
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
    return _joined(inputs, outputs, len(keys), len(keys), kernel, middle)


def padded_keys(coords: Tensor, shape: Triple, kernel: Triple) -> tuple[Tensor, Triple]:
    """(M,) int64 keys, rising in (b, z, y, x) order, and how far a step along z, y and x moves one."""
    depth, height, width = (size + k // 2 for size, k in zip(shape, kernel, strict=True))
    b, z, y, x = coords.unbind(1)
    return ((b * depth + z) * height + y) * width + x, (height * width, width, 1)


def sorted_ranks(op: str, keys: Tensor, check: bool) -> tuple[Tensor | None, Tensor]:
    """(order, sorted keys); order is None where the keys rise already. Refuses a key that is there twice."""
    order = None
    steps = keys.diff()
    if bool((steps <= 0).any()):
        order = torch.argsort(keys)
        keys = keys[order]
        steps = keys.diff()
        if check and bool((steps == 0).any()):
            first = int((steps == 0).nonzero()[0])
            raise ValueError(
                f"{op}: coords must have no row twice, got rows {int(order[first])} and "
                f"{int(order[first + 1])} with the same cell"
            )
    return order, keys


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
    check_coords(op, coords, shape, values=check)
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
    pairs = _joined(inputs, outputs, len(coords), len(found), kernel, -1)
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


def _by_output(inputs: Tensor, outputs: Tensor, order: Tensor | None) -> tuple[Tensor, Tensor]:
    """A transposed cell's pairs with rising outputs; they rise already where the rows themselves do."""
    if order is None:
        return inputs, outputs
    rising = torch.argsort(outputs)
    return inputs[rising], outputs[rising]


def _joined(
    inputs: list[Tensor], outputs: list[Tensor], n_in: int, n_out: int, kernel: Triple, identity: int
) -> ConvPairs:
    counts = torch.tensor([0, *(len(own) for own in inputs)])
    return ConvPairs(
        inputs=torch.cat(inputs),
        outputs=torch.cat(outputs),
        offsets=counts.cumsum(0),
        n_in=n_in,
        n_out=n_out,
        kernel_size=kernel,
        identity=identity,
    )
