"""Kernel cells and output sizes of a convolution over three axes, (z, y, x)."""

from itertools import product

Triple = tuple[int, int, int]


def cells(kernel: Triple) -> list[Triple]:
    """The kernel's cells (z, y, x), x fastest: the order in which pairs and weights are stored."""
    return list(product(*(range(k) for k in kernel)))


def out_size(op: str, shape: Triple, kernel: Triple, stride: Triple, padding: Triple) -> Triple:
    """Output cells along each axis; refuses a kernel that no place of the padded grid has room for."""
    sizes = zip(shape, kernel, stride, padding, strict=True)
    depth, height, width = ((n + 2 * p - k) // s + 1 for n, k, s, p in sizes)
    if min(depth, height, width) < 1:
        room = tuple(n + 2 * p for n, p in zip(shape, padding, strict=True))
        raise ValueError(f"{op}: kernel_size must fit the padded grid (z, y, x) = {room}, got {kernel}")
    return depth, height, width
