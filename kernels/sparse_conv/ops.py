"""Registration with torch.library: each convolution and its backward, opaque to compilers.

Each takes flat tensors and plain values: the pair lists, and for Triton the tables made of them. The
backwards have no backward of their own: torch raises if asked for one.
"""

from types import ModuleType
from typing import Any

from torch import Tensor
from torch.library import custom_op

from ..autocast import exactly


def module_of(backend: str, depthwise: bool) -> ModuleType:
    if backend == "eager":
        from . import depthwise_eager, eager

        return depthwise_eager if depthwise else eager
    from . import depthwise_triton, triton_launch

    return depthwise_triton if depthwise else triton_launch


@custom_op("linzoo::sparse_conv", mutates_args=())
def sparse_conv_op(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    inputs: Tensor,
    outputs: Tensor,
    offsets: Tensor,
    n_out: int,
    identity: int,
    backend: str,
) -> Tensor:
    with exactly(x):
        run = module_of(backend, False).forward
        return run(x, weight, bias, inputs, outputs, offsets, n_out, identity)


@sparse_conv_op.register_fake
def _(x, weight, bias, inputs, outputs, offsets, n_out, identity, backend):
    return x.new_empty((n_out, weight.shape[0]))


@custom_op("linzoo::sparse_conv_bwd", mutates_args=())
def sparse_conv_bwd_op(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    offsets: Tensor,
    identity: int,
    need_dx: bool,
    need_dw: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    with exactly(x):
        run = module_of(backend, False).backward
        grads = run(dy, x, weight, inputs, outputs, offsets, identity, need_dx, need_dw)
    return tuple(x.new_empty(0) if g is None else g for g in grads)  # an op cannot return None among tensors


@sparse_conv_bwd_op.register_fake
def _(dy, x, weight, inputs, outputs, offsets, identity, need_dx, need_dw, backend):
    wanted = ((x, need_dx), (weight, need_dw))
    return tuple(t.new_empty(t.shape if need else 0) for t, need in wanted)


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, weight, _bias, *pairs, _, ctx.identity, ctx.backend = inputs
    ctx.save_for_backward(x, weight, *pairs)


def _backward(ctx: Any, dy: Tensor) -> tuple:
    need_dx, need_dw, need_db = ctx.needs_input_grad[:3]
    dx = dw = db = None
    if need_dx or need_dw:
        words = (ctx.identity, need_dx, need_dw, ctx.backend)
        dx, dw = sparse_conv_bwd_op(dy.contiguous(), *ctx.saved_tensors, *words)
    if need_db:
        db = dy.sum(0)
    return dx if need_dx else None, dw if need_dw else None, db, *(None,) * 6


sparse_conv_op.register_autograd(_backward, setup_context=_keep)


@custom_op("linzoo::depthwise_sparse_conv", mutates_args=())
def depthwise_op(
    x: Tensor,
    weight: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    offsets: Tensor,
    n_out: int,
    identity: int,
    backend: str,
) -> Tensor:
    with exactly(x):
        return module_of(backend, True).forward(x, weight, inputs, outputs, offsets, n_out, identity)


@depthwise_op.register_fake
def _(x, weight, inputs, outputs, offsets, n_out, identity, backend):
    return x.new_empty((n_out, x.shape[1]))


@custom_op("linzoo::depthwise_sparse_conv_bwd", mutates_args=())
def depthwise_bwd_op(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    offsets: Tensor,
    identity: int,
    need_dx: bool,
    need_dw: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    with exactly(x):
        run = module_of(backend, True).backward
        grads = run(dy, x, weight, inputs, outputs, offsets, identity, need_dx, need_dw)
    return tuple(x.new_empty(0) if g is None else g for g in grads)


@depthwise_bwd_op.register_fake
def _(dy, x, weight, inputs, outputs, offsets, identity, need_dx, need_dw, backend):
    wanted = ((x, need_dx), (weight, need_dw))
    return tuple(t.new_empty(t.shape if need else 0) for t, need in wanted)


def _keep_depthwise(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, _, ctx.identity, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _depthwise_backward(ctx: Any, dy: Tensor) -> tuple:
    need_dx, need_dw = ctx.needs_input_grad[:2]
    words = (ctx.identity, need_dx, need_dw, ctx.backend)
    dx, dw = depthwise_bwd_op(dy.contiguous(), *ctx.saved_tensors, *words)
    return dx if need_dx else None, dw if need_dw else None, *(None,) * 6


depthwise_op.register_autograd(_depthwise_backward, setup_context=_keep_depthwise)
