"""What the sparse convolutions and their pair lists accept, checked once."""

import math

import torch
from torch import Tensor

from .. import checks
from .geometry import Triple

LARGEST = 2**62  # keys must leave room for a neighbour's step


def check_triple(op: str, name: str, value: object, least: int) -> Triple:
    """One number for all three axes, or one along each of (z, y, x)."""
    triple = (value,) * 3 if isinstance(value, int) else value
    if not isinstance(triple, (tuple, list, torch.Size)) or len(triple) != 3:
        raise TypeError(f"{op}: {name} must be an integer or three (z, y, x), got {value!r}")
    for axis, number in zip("zyx", triple, strict=True):
        checks.check_integer(op, f"{name} along {axis}", number, least=least)
    return triple[0], triple[1], triple[2]


def check_shape(op: str, shape: object) -> Triple:
    if isinstance(shape, int):
        raise TypeError(f"{op}: shape must be three cell counts (z, y, x), got {shape!r}")
    return check_triple(op, "shape", shape, 1)


def check_kernel(op: str, kernel_size: object, *, odd: bool) -> Triple:
    kernel = check_triple(op, "kernel_size", kernel_size, 1)
    if odd and not all(k % 2 for k in kernel):
        raise ValueError(
            f"{op}: kernel_size must be odd along every axis (the output cell is its middle), got {kernel}"
        )
    return kernel


def check_geometry(
    op: str, kernel_size: object, stride: object, padding: object
) -> tuple[Triple, Triple, Triple]:
    return (
        check_kernel(op, kernel_size, odd=False),
        check_triple(op, "stride", stride, 1),
        check_triple(op, "padding", padding, 0),
    )


def check_coords(op: str, coords: object, shape: Triple, spaced: Triple, *, values: bool) -> None:
    """(M, 4) int64 rows (b, z, y, x); with ``values``, all within the grid, and few enough samples for keys
    of ``spaced`` cells along each axis."""
    if not isinstance(coords, Tensor):
        raise TypeError(f"{op}: coords must be a tensor (M, 4), got {type(coords).__name__}")
    if coords.dim() != 2 or coords.shape[1] != 4:
        checks.refuse(op, "coords", "be (M, 4) rows (b, z, y, x)", tuple(coords.shape))
    if coords.dtype != torch.int64:
        checks.refuse(op, "coords", "be int64", coords.dtype)
    if not values or not len(coords):
        return
    low, high = (x.tolist() for x in coords.aminmax(dim=0))
    room = (LARGEST // math.prod(spaced), *shape)
    for axis, size, first, last in zip("bzyx", room, low, high, strict=True):
        if first < 0 or last >= size:
            raise ValueError(
                f"{op}: coords {axis} must be in 0 .. {size - 1} for shape (z, y, x) = {shape}, "
                f"got {first} .. {last}"
            )


def check_features(op: str, x: object, channels: str) -> None:
    layout = f"(M, {channels})"
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: x must be a tensor {layout}, got {type(x).__name__}")
    if x.dim() != 2:
        checks.refuse(op, "x", f"have 2 dimensions {layout}", tuple(x.shape))
    if x.shape[1] == 0:
        checks.refuse(op, "x", f"have at least 1 channel in {layout}", tuple(x.shape))
    checks.check_floating(op, "x", x)


def check_rows(op: str, x: Tensor, n_in: int, inputs: Tensor) -> None:
    """x has the rows and the device that the pairs were made for."""
    if x.shape[0] != n_in:
        checks.refuse(op, "x", f"have the {n_in} rows that pairs were made for", x.shape[0])
    if x.device != inputs.device:
        checks.refuse(op, "pairs", f"be on x's device {x.device}", inputs.device)


def check_weight(op: str, weight: object, layout: str, shape: tuple[int, ...], x: Tensor) -> None:
    checks.check_shape(op, "weight", weight, layout, shape)
    checks.check_like(op, "weight", weight, "x", x)
