"""Depthwise sparse convolution in plain torch: per kernel cell gather rows, scale channels, add.

As in eager.py no row occurs twice in a kernel cell, so the additions never meet.
"""

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from .eager import Rows, listed, most_pairs


def forward(
    x: Tensor, weight: Tensor, inputs: Tensor, outputs: Tensor, offsets: Tensor, n_out: int, identity: int
) -> Tensor:
    """x (n_in, C), weight [kz, ky, kx, C] -> (n_out, C) in x's dtype."""
    acc = accumulation_dtype(x.dtype)
    dtype, x, scales = x.dtype, x.to(acc).contiguous(), weight.to(acc).flatten(0, 2)
    y = x * scales[identity] if identity >= 0 else x.new_zeros(n_out, x.shape[1])
    rows = Rows(x, most_pairs(offsets, identity), x.shape[1])
    for k, own, out in listed(inputs, outputs, offsets, identity):
        y.index_add_(0, out, rows.gather(x, own).mul_(scales[k]))
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
    """(dx, dweight); None for one that is not wanted."""
    acc = accumulation_dtype(x.dtype)
    dtype, shape = x.dtype, weight.shape
    x, dy, scales = x.to(acc).contiguous(), dy.to(acc).contiguous(), weight.to(acc).flatten(0, 2)
    dx = dw = None
    if need_dx:
        dx = dy * scales[identity] if identity >= 0 else torch.zeros_like(x)
    if need_dw:
        dw = torch.zeros_like(scales)
        if identity >= 0:
            dw[identity] = (dy * x).sum(0)
    most = most_pairs(offsets, identity)
    rows, gradients = (Rows(x, most, x.shape[1]) for _ in range(2))
    for k, own, out in listed(inputs, outputs, offsets, identity):
        grad = gradients.gather(dy, out)
        if need_dw:
            dw[k] = rows.gather(x, own).mul_(grad).sum(0)
        if need_dx:
            dx.index_add_(0, own, grad.mul_(scales[k]))
    dx = dx if dx is None else dx.to(dtype)
    return dx, dw if dw is None else dw.reshape(shape).to(dtype)
