"""Registration with torch.library: two ops, each the backward of the other, opaque to compilers.

So both can be differentiated any number of times.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import Tensor
from torch.library import custom_op

from .arguments import check_values


def module_of(backend: str) -> ModuleType:
    if backend == "eager":
        from . import eager as module
    else:
        from . import triton_launch as module
    return module


@custom_op("linzoo::segment_sum", mutates_args=())
def segment_sum_op(x: Tensor, index: Tensor, segments: int, backend: str) -> Tensor:
    check_values("segment_sum", index, segments)
    return module_of(backend).segment_sum(x, index, segments)


@segment_sum_op.register_fake
def _(x, index, segments, backend):
    return x.new_empty((segments, *x.shape[1:]))


@custom_op("linzoo::segment_gather", mutates_args=())
def segment_gather_op(x: Tensor, index: Tensor, backend: str) -> Tensor:
    check_values("segment_gather", index, x.shape[0])
    return module_of(backend).segment_gather(x, index)


@segment_gather_op.register_fake
def _(x, index, backend):
    return x.new_empty((index.shape[0], *x.shape[1:]))


def _keep_sum(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _, index, _, ctx.backend = inputs
    ctx.save_for_backward(index)


def _sum_backward(ctx: Any, dy: Tensor) -> tuple:
    (index,) = ctx.saved_tensors
    return segment_gather_op(dy.contiguous(), index, ctx.backend), None, None, None


def _keep_gather(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, index, ctx.backend = inputs
    ctx.rows = x.shape[0]
    ctx.save_for_backward(index)


def _gather_backward(ctx: Any, dy: Tensor) -> tuple:
    (index,) = ctx.saved_tensors
    return segment_sum_op(dy.contiguous(), index, ctx.rows, ctx.backend), None, None


def _register(op: Any, backward: Callable[..., tuple], keep: Callable[..., None]) -> None:
    op.register_autograd(backward, setup_context=keep)


_register(segment_sum_op, _sum_backward, _keep_sum)
_register(segment_gather_op, _gather_backward, _keep_gather)
