"""Sparse convolution in plain torch: per kernel cell gather rows, one product, add to the output rows.

An output row occurs at most once in a kernel cell, so ``index_add_`` never has two rows to add to one place:
the same input gives the same bits on CUDA as well, where its additions are atomic. Scratch is two buffers of
the largest kernel cell's pairs, used again for every cell.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ..checks import accumulation_dtype


class Rows:
    """Scratch rows: gathers into one buffer that is used again for every kernel cell."""

    def __init__(self, like: Tensor, most: int, width: int) -> None:
        self.buffer = like.new_empty(most, width)

    def first(self, count: int) -> Tensor:
        return self.buffer[:count]

    def gather(self, x: Tensor, index: Tensor) -> Tensor:
        return torch.index_select(x, 0, index, out=self.first(len(index)))


def by_cell(weight: Tensor) -> Tensor:
    """[Cout, kz, ky, kx, Cin] -> (K, Cin, Cout), contiguous."""
    return weight.flatten(1, 3).permute(1, 2, 0).contiguous()


def listed(
    inputs: Tensor, outputs: Tensor, offsets: Tensor, identity: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(kernel cell, inputs, outputs) of every cell that has pairs, but for the identity."""
    edges = offsets.tolist()
    for k, (first, last) in enumerate(pairwise(edges)):
        if k != identity and last > first:
            yield k, inputs[first:last], outputs[first:last]


def most_pairs(offsets: Tensor, identity: int) -> int:
    counts = offsets.diff().tolist()
    return max((n for k, n in enumerate(counts) if k != identity), default=0)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    inputs: Tensor,
    outputs: Tensor,
    offsets: Tensor,
    n_out: int,
    identity: int,
) -> Tensor:
    """x (n_in, Cin), weight [Cout, kz, ky, kx, Cin] -> (n_out, Cout) in x's dtype."""
    acc = accumulation_dtype(x.dtype)
    dtype, x, cell_weight = x.dtype, x.to(acc).contiguous(), by_cell(weight.to(acc))
    y = x @ cell_weight[identity] if identity >= 0 else x.new_zeros(n_out, weight.shape[0])
    if bias is not None:
        y += bias.to(acc)
    most = most_pairs(offsets, identity)
    rows, products = Rows(x, most, x.shape[1]), Rows(x, most, y.shape[1])
    for k, own, out in listed(inputs, outputs, offsets, identity):
        product = torch.mm(rows.gather(x, own), cell_weight[k], out=products.first(len(own)))
        y.index_add_(0, out, product)
    return y.to(dtype)


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    offsets: Tensor,
    identity: int,
    need_dx: bool,
    need_dw: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """(dx, dweight); None for one that is not wanted. An input row too occurs at most once in a cell."""
    acc = accumulation_dtype(x.dtype)
    dtype, shape = x.dtype, weight.shape
    x, dy, weight = x.to(acc).contiguous(), dy.to(acc).contiguous(), weight.to(acc).flatten(1, 3)
    by_cell = weight.transpose(0, 1).contiguous()  # (K, Cout, Cin)
    dx = dw = None
    if need_dx:
        dx = dy @ by_cell[identity] if identity >= 0 else torch.zeros_like(x)
    if need_dw:
        dw = torch.zeros_like(by_cell)
        if identity >= 0:
            torch.mm(dy.t(), x, out=dw[identity])
    most = most_pairs(offsets, identity)
    rows, products, gradients = (Rows(x, most, width) for width in (x.shape[1], x.shape[1], dy.shape[1]))
    for k, own, out in listed(inputs, outputs, offsets, identity):
        grad = gradients.gather(dy, out)
        if need_dw:
            torch.mm(grad.t(), rows.gather(x, own), out=dw[k])
        if need_dx:
            dx.index_add_(0, own, torch.mm(grad, by_cell[k], out=products.first(len(own))))
    dx = dx if dx is None else dx.to(dtype)
    return dx, dw if dw is None else dw.transpose(0, 1).to(dtype).contiguous().view(shape)
