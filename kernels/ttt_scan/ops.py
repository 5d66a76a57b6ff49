"""Registration with torch.library: the scan, forward and backward. Compilers see one opaque call each.

The backward is an op too and has no backward of its own: the scan is not twice differentiable (torch raises
if asked).
"""

from typing import Any

import torch
from torch import Tensor

from ..autocast import exactly
from ..checks import check_offsets
from . import eager


@torch.library.custom_op("linzoo::ttt_scan", mutates_args=())
def ttt_scan_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    position_rate: Tensor,
    W: Tensor,
    b: Tensor,
    gamma: Tensor,
    beta: Tensor,
    cu_seqlens: Tensor | None,
    size: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    if cu_seqlens is not None and q.device.type == "cpu":  # a compiler that traced could not read the values
        check_offsets("ttt_scan", cu_seqlens, q.shape[1])
    inputs = eager.Inputs(q, k, v, rate, position_rate, W, b, gamma, beta, cu_seqlens)
    with exactly(q):
        return eager.scan_forward(inputs, size, eps)


@ttt_scan_op.register_fake
def _(q, k, v, rate, position_rate, W, b, gamma, beta, cu_seqlens, size, eps):
    return q.new_empty(q.shape), W.new_empty(W.shape), b.new_empty(b.shape)


@torch.library.custom_op("linzoo::ttt_scan_bwd", mutates_args=())
def ttt_scan_bwd_op(
    do: Tensor,
    dW: Tensor,
    db: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    position_rate: Tensor,
    W: Tensor,
    b: Tensor,
    gamma: Tensor,
    beta: Tensor,
    cu_seqlens: Tensor | None,
    size: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = eager.Inputs(q, k, v, rate, position_rate, W, b, gamma, beta, cu_seqlens)
    with exactly(q):
        return eager.scan_backward(do, dW, db, inputs, size, eps)


@ttt_scan_bwd_op.register_fake
def _(do, dW, db, *rest):
    return tuple(x.new_empty(x.shape) for x in rest[:9])


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.words = inputs[10:]
    ctx.save_for_backward(*inputs[:10])


def _backward(ctx: Any, do: Tensor, dW: Tensor, db: Tensor) -> tuple:
    grads = (x.contiguous() for x in (do, dW, db))
    return *ttt_scan_bwd_op(*grads, *ctx.saved_tensors, *ctx.words), None, None, None


ttt_scan_op.register_autograd(_backward, setup_context=_keep)
