"""Registration with torch.library: the scan and the running maximum, forward and backward.

Compilers see one opaque call each; ``backend`` names the module that does the scan's work.

Backwards are ops too and have no backward of their own: the scan is not twice differentiable (torch raises
if asked).
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..autocast import exactly
from ..checks import accumulation_dtype, check_offsets
from . import eager, maximum


def module_of(backend: str) -> ModuleType:
    """Where ``scan_forward`` and ``scan_backward`` are."""
    if backend == "eager":
        return eager
    from . import triton_launch

    return triton_launch


def check_values(x: Tensor, cu_seqlens: Tensor | None) -> None:
    """What the public function could not read while a compiler traced it; here tensors are real."""
    if cu_seqlens is not None and x.device.type == "cpu":  # reading values would make a GPU wait
        check_offsets("decay_scan", cu_seqlens, x.shape[1])


def _state_shape(q: Tensor, v: Tensor, cu_seqlens: Tensor | None, count: bool) -> tuple:
    states = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return states, q.shape[2], q.shape[3], v.shape[3] + count


@torch.library.custom_op("linzoo::decay_scan", mutates_args=())
def decay_scan_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    log_weight: Tensor | None,
    bonus: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    symmetric_block: int,
    exclusive: bool,
    count: bool,
    scale: float,
    reverse: bool,
    chunk: int,
    backend: str = "eager",
) -> tuple[Tensor, Tensor]:
    check_values(q, cu_seqlens)
    inputs = eager.Inputs(q, k, v, log_decay, log_weight, bonus, initial, cu_seqlens)
    words = eager.Words(symmetric_block, exclusive, count, scale, reverse, chunk)
    with exactly(q):
        return module_of(backend).scan_forward(inputs, words)


@decay_scan_op.register_fake
def _(q, k, v, log_decay, log_weight, bonus, initial, cu_seqlens, symmetric_block, exclusive, count, *words):
    acc = accumulation_dtype(q.dtype)
    shape = _state_shape(q, v, cu_seqlens, count)
    o = q.new_empty((*q.shape[:3], shape[3]), dtype=acc if count else q.dtype)
    return o, q.new_empty(shape, dtype=acc)


@torch.library.custom_op("linzoo::decay_scan_bwd", mutates_args=())
def decay_scan_bwd_op(
    do: Tensor,
    dstate: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    log_weight: Tensor | None,
    bonus: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    symmetric_block: int,
    exclusive: bool,
    count: bool,
    scale: float,
    reverse: bool,
    chunk: int,
    backend: str = "eager",
    decay_gradient: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = eager.Inputs(q, k, v, log_decay, log_weight, bonus, initial, cu_seqlens)
    words = eager.Words(symmetric_block, exclusive, count, scale, reverse, chunk, decay_gradient)
    with exactly(q):
        grads = list(module_of(backend).scan_backward(do, dstate, inputs, words))
    if not decay_gradient:
        grads[3] = None
    return tuple(q.new_empty(0) if g is None else g for g in grads)  # an op cannot return None among tensors


@decay_scan_bwd_op.register_fake
def _(
    do,
    dstate,
    q,
    k,
    v,
    log_decay,
    log_weight,
    bonus,
    initial,
    cu_seqlens,
    symmetric_block,
    exclusive,
    count,
    scale,
    reverse,
    chunk,
    backend="eager",
    decay_gradient=True,
):
    given = (q, k, v, log_decay if decay_gradient else None, log_weight, bonus, initial)
    return tuple(q.new_empty(0) if x is None else x.new_empty(x.shape) for x in given)


def _keep_scan(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.words = inputs[8:]
    ctx.save_for_backward(*inputs[:8])


def _scan_backward(ctx: Any, do: Tensor, dstate: Tensor) -> tuple:
    saved = ctx.saved_tensors  # read once: under activation checkpointing a second unpacking is an error
    wanted = ctx.needs_input_grad[3]  # constant decays are seldom learnt
    grads = decay_scan_bwd_op(do.contiguous(), dstate.contiguous(), *saved, *ctx.words, decay_gradient=wanted)
    given = [None if x is None else g for x, g in zip(saved[:7], grads, strict=True)]
    if not wanted:
        given[3] = None
    return *given, None, *(None,) * 7


decay_scan_op.register_autograd(_scan_backward, setup_context=_keep_scan)


@torch.library.custom_op("linzoo::decay_max", mutates_args=())
def decay_max_op(
    log_decay: Tensor, gate: Tensor, initial: Tensor, cu_seqlens: Tensor | None, reverse: bool
) -> Tensor:
    check_values(gate, cu_seqlens)
    return maximum.forward(log_decay, gate, initial, cu_seqlens, reverse)


@decay_max_op.register_fake
def _(log_decay, gate, initial, cu_seqlens, reverse):
    return gate.new_empty(gate.shape)


@torch.library.custom_op("linzoo::decay_max_bwd", mutates_args=())
def decay_max_bwd_op(
    dm: Tensor,
    m: Tensor,
    log_decay: Tensor,
    gate: Tensor,
    initial: Tensor,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return maximum.backward(dm, m, log_decay, gate, initial, cu_seqlens, reverse)


@decay_max_bwd_op.register_fake
def _(dm, m, log_decay, gate, initial, cu_seqlens, reverse):
    return tuple(x.new_empty(x.shape) for x in (log_decay, gate, initial))


def _keep_max(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.reverse = inputs
    ctx.save_for_backward(output, *tensors)


def _max_backward(ctx: Any, dm: Tensor) -> tuple:
    grads = decay_max_bwd_op(dm.contiguous(), *ctx.saved_tensors, ctx.reverse)
    return *grads, None, None


decay_max_op.register_autograd(_max_backward, setup_context=_keep_max)
