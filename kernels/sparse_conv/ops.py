"""Registration with torch.library: each convolution and its backward, opaque to compilers.

Each takes flat tensors and plain values: the pair lists, and for Triton the tables made of them. The
backwards have no backward of their own: torch raises if asked for one.
"""

from typing import Any

from torch import Tensor
from torch.library import custom_op

from ..autocast import exactly
from . import depthwise_eager, eager


@custom_op("linzoo::sparse_conv", mutates_args=())
def sparse_conv_op(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    inputs: Tensor,
    outputs: Tensor,
    offsets: Tensor,
    table: Tensor | None,
    transposed: Tensor | None,
    n_out: int,
    identity: int,
    backend: str,
) -> Tensor:
    with exactly(x):
        if backend == "eager":
            return eager.forward(x, weight, bias, inputs, outputs, offsets, n_out, identity)
        from . import triton_launch

        return triton_launch.forward(x, weight, bias, table)


@sparse_conv_op.register_fake
def _(x, weight, bias, inputs, outputs, offsets, table, transposed, n_out, identity, backend):
    return x.new_empty((n_out, weight.shape[0]))


@custom_op("linzoo::sparse_conv_bwd", mutates_args=())
def sparse_conv_bwd_op(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    offsets: Tensor,
    transposed: Tensor | None,
    identity: int,
    need_dx: bool,
    need_dw: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    given = (dy, x, weight, inputs, outputs, offsets)
    with exactly(x):
        if backend == "eager":
            grads = eager.backward(*given, identity, need_dx, need_dw)
        else:
            from . import triton_launch

            grads = triton_launch.backward(*given, transposed, need_dx, need_dw)
    return tuple(x.new_empty(0) if g is None else g for g in grads)  # an op cannot return None among tensors


def _gradients(dy, x, weight, inputs, outputs, offsets, transposed, identity, need_dx, need_dw, backend):
    wanted = ((x, need_dx), (weight, need_dw))
    return tuple(t.new_empty(t.shape if need else 0) for t, need in wanted)


sparse_conv_bwd_op.register_fake(_gradients)


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, weight, _bias, *lists, _table, transposed, _n_out, ctx.identity, ctx.backend = inputs
    ctx.save_for_backward(x, weight, *lists, transposed)


def _backward(ctx: Any, dy: Tensor) -> tuple:
    need_dx, need_dw, need_db = ctx.needs_input_grad[:3]
    dx = dw = None
    if need_dx or need_dw:
        words = (ctx.identity, need_dx, need_dw, ctx.backend)
        dx, dw = sparse_conv_bwd_op(dy.contiguous(), *ctx.saved_tensors, *words)
    db = dy.sum(0) if need_db else None
    return dx if need_dx else None, dw if need_dw else None, db, *(None,) * 8


sparse_conv_op.register_autograd(_backward, setup_context=_keep)


@custom_op("linzoo::depthwise_sparse_conv", mutates_args=())
def depthwise_op(
    x: Tensor,
    weight: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    offsets: Tensor,
    table: Tensor | None,
    transposed: Tensor | None,
    n_out: int,
    identity: int,
    backend: str,
) -> Tensor:
    with exactly(x):
        if backend == "eager":
            return depthwise_eager.forward(x, weight, inputs, outputs, offsets, n_out, identity)
        from . import depthwise_triton

        return depthwise_triton.forward(x, weight, table)


@depthwise_op.register_fake
def _(x, weight, inputs, outputs, offsets, table, transposed, n_out, identity, backend):
    return x.new_empty((n_out, x.shape[1]))


@custom_op("linzoo::depthwise_sparse_conv_bwd", mutates_args=())
def depthwise_bwd_op(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    offsets: Tensor,
    transposed: Tensor | None,
    identity: int,
    need_dx: bool,
    need_dw: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    given = (dy, x, weight, inputs, outputs, offsets)
    with exactly(x):
        if backend == "eager":
            grads = depthwise_eager.backward(*given, identity, need_dx, need_dw)
        else:
            from . import depthwise_triton

            grads = depthwise_triton.backward(*given, transposed, need_dx, need_dw)
    return tuple(x.new_empty(0) if g is None else g for g in grads)


depthwise_bwd_op.register_fake(_gradients)


def _keep_depthwise(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, _table, transposed, _n_out, ctx.identity, ctx.backend = inputs
    ctx.save_for_backward(*tensors, transposed)


def _depthwise_backward(ctx: Any, dy: Tensor) -> tuple:
    need_dx, need_dw = ctx.needs_input_grad[:2]
    words = (ctx.identity, need_dx, need_dw, ctx.backend)
    dx, dw = depthwise_bwd_op(dy.contiguous(), *ctx.saved_tensors, *words)
    return dx if need_dx else None, dw if need_dw else None, *(None,) * 8


depthwise_op.register_autograd(_depthwise_backward, setup_context=_keep_depthwise)
