"""Registration with torch.library: one op forward, one backward, opaque to compilers.

Each takes flat tensors and plain values; ``backend`` names the module that does the work. Besides y and the
state the forward returns the states that its backward starts from; with ``keep`` False none, and then the
backward computes them again. It has no backward of its own: torch raises if asked for one.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..autocast import exactly
from ..checks import accumulation_dtype, check_offsets
from . import eager, eager_backward, triton_tiles
from .arguments import OP


def _states(u: Tensor, cu_seqlens: Tensor | None) -> int:
    return u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1


@torch.library.custom_op("linzoo::selective_scan", mutates_args=())
def selective_scan_op(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    if cu_seqlens is not None and u.device.type == "cpu":  # unread while traced; reading makes a GPU wait
        check_offsets(OP, cu_seqlens, u.shape[1])
    inputs = eager.Inputs(u, delta, A, B, C, D, initial, cu_seqlens, reverse)
    with exactly(u):
        return _of(backend)[0](inputs, keep)


def _of(backend: str) -> tuple[Callable[..., tuple], Callable[..., tuple]]:
    """(forward, backward)"""
    if backend == "eager":
        return eager.forward, eager_backward.backward
    from . import triton_launch

    return triton_launch.forward, triton_launch.backward


@selective_scan_op.register_fake
def _(u, delta, A, B, C, D, initial, cu_seqlens, reverse, keep, backend):
    acc = accumulation_dtype(u.dtype)
    kept = eager.kept_states if backend == "eager" else triton_tiles.kept_states
    numbers = _states(u, cu_seqlens), kept(u, cu_seqlens) if keep else 0
    states = (u.new_empty((n, *A.shape), dtype=acc) for n in numbers)
    return u.new_empty(u.shape), *states


@torch.library.custom_op("linzoo::selective_scan_bwd", mutates_args=())
def selective_scan_bwd_op(
    dy: Tensor,
    dstate: Tensor,
    kept: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = eager.Inputs(u, delta, A, B, C, D, initial, cu_seqlens, reverse)
    with exactly(u):
        grads = _of(backend)[1](dy, dstate, inputs, kept)
    return tuple(u.new_empty(0) if g is None else g for g in grads)  # an op cannot return None among tensors


@selective_scan_bwd_op.register_fake
def _(dy, dstate, kept, u, delta, A, B, C, D, initial, cu_seqlens, reverse, backend):
    given = (u, delta, A, B, C, D, initial)
    return tuple(u.new_empty(0) if x is None else x.new_empty(x.shape) for x in given)


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, ctx.reverse, _, ctx.backend = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(output[2], *tensors)


def _backward(ctx: Any, dy: Tensor, dstate: Tensor, _: Tensor | None) -> tuple:
    saved = ctx.saved_tensors  # read once: under activation checkpointing a second unpacking is an error
    grads = selective_scan_bwd_op(dy.contiguous(), dstate.contiguous(), *saved, ctx.reverse, ctx.backend)
    given = (None if x is None else g for x, g in zip(saved[1:8], grads, strict=True))
    return *given, None, None, None, None


selective_scan_op.register_autograd(_backward, setup_context=_keep)
