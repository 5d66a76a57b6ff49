"""Registration with torch.library: one op per kernel, forward and backward, opaque to compilers.

Custom ops rather than ``triton_op``: a compiler that looks into the latter needs a GPU driver to be present.
Each op takes flat tensors and plain values; ``backend`` names the module that does the work. Backwards are
ops too and have no backward of their own: linear attention is not twice differentiable (torch raises if
asked).
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..autocast import exactly
from ..checks import accumulation_dtype, check_offsets, check_rows
from . import eager


def launcher(backend: str) -> ModuleType:
    """The module with ``reduce_forward`` and its three siblings; imports triton only when wanted."""
    if backend == "eager":
        return eager
    from . import triton_launch

    return triton_launch


def check_values(
    op: str, x: Tensor, cu_seqlens: Tensor | None, state_index: Tensor | None = None, states: int = 0
) -> None:
    """What the public functions could not read while a compiler traced them; here tensors are real."""
    if x.device.type != "cpu":  # reading values would make a GPU wait
        return
    if cu_seqlens is not None:
        check_offsets(op, cu_seqlens, x.shape[1])
    if state_index is not None:
        check_rows(op, state_index, states)


@torch.library.custom_op("linzoo::lin_reduce", mutates_args=())
def lin_reduce_op(
    k: Tensor,
    v: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    cu_seqlens: Tensor | None,
    feature: str,
    centered: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_values("lin_reduce", k, cu_seqlens)
    with exactly(k):
        return launcher(backend).reduce_forward(k, v, weight, mask, cos, sin, cu_seqlens, feature, centered)


@lin_reduce_op.register_fake
def _(k, v, weight, mask, cos, sin, cu_seqlens, feature, centered, backend):
    states = k.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    heads, key_dim, value_dim = k.shape[2], k.shape[3], v.shape[3]
    acc = accumulation_dtype(k.dtype)
    return (
        k.new_empty((states, heads, key_dim, value_dim), dtype=acc),
        k.new_empty((states, heads, key_dim), dtype=acc),
        k.new_empty((states, heads, value_dim), dtype=acc),
        k.new_empty((states,), dtype=torch.int64),
    )


@torch.library.custom_op("linzoo::lin_reduce_bwd", mutates_args=())
def lin_reduce_bwd_op(
    dS: Tensor,
    ds: Tensor,
    dm: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    cu_seqlens: Tensor | None,
    s: Tensor,
    m: Tensor,
    n: Tensor,
    feature: str,
    centered: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    with exactly(k):
        dk, dv, dweight = launcher(backend).reduce_backward(
            dS, ds, dm, k, v, weight, mask, cos, sin, cu_seqlens, s, m, n, feature, centered
        )
    return dk, dv, k.new_empty(0) if dweight is None else dweight  # an op cannot return None among tensors


@lin_reduce_bwd_op.register_fake
def _(dS, ds, dm, k, v, weight, mask, cos, sin, cu_seqlens, s, m, n, feature, centered, backend):
    dweight = k.new_empty(0) if weight is None else weight.new_empty(weight.shape)
    return k.new_empty(k.shape), v.new_empty(v.shape), dweight


def _keep_reduce(ctx: Any, inputs: tuple, output: tuple) -> None:
    k, v, weight, mask, cos, sin, cu_seqlens, ctx.feature, ctx.centered, ctx.backend = inputs
    _, s, m, n = output
    ctx.mark_non_differentiable(n)
    ctx.save_for_backward(k, v, weight, mask, cos, sin, cu_seqlens, s, m, n)


def _reduce_backward(ctx: Any, dS: Tensor, ds: Tensor, dm: Tensor, _: Tensor | None) -> tuple:
    k, v, weight, mask, cos, sin, cu_seqlens, s, m, n = ctx.saved_tensors
    grads = (x.contiguous() for x in (dS, ds, dm))
    dk, dv, dweight = lin_reduce_bwd_op(
        *grads, k, v, weight, mask, cos, sin, cu_seqlens, s, m, n, ctx.feature, ctx.centered, ctx.backend
    )
    return dk, dv, None if weight is None else dweight, *(None,) * 7


lin_reduce_op.register_autograd(_reduce_backward, setup_context=_keep_reduce)


@torch.library.custom_op("linzoo::lin_readout", mutates_args=())
def lin_readout_op(
    q: Tensor,
    S: Tensor,
    s: Tensor,
    m: Tensor,
    n: Tensor,
    tau: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    cu_seqlens: Tensor | None,
    state_index: Tensor | None,
    feature: str,
    norm: str,
    eps: float,
    eps_on: str,
    scale: float,
    cmin: float,
    centered: bool,
    backend: str,
) -> Tensor:
    check_values("lin_readout", q, cu_seqlens, state_index, len(n))
    with exactly(q):
        return launcher(backend).readout_forward(
            q,
            S,
            s,
            m,
            n,
            tau,
            cos,
            sin,
            cu_seqlens,
            state_index,
            feature,
            norm,
            eps,
            eps_on,
            scale,
            cmin,
            centered,
        )


@lin_readout_op.register_fake
def _(q, S, s, m, n, tau, cos, sin, cu_seqlens, state_index, *words):
    return q.new_empty((*q.shape[:3], S.shape[3]))


@torch.library.custom_op("linzoo::lin_readout_bwd", mutates_args=())
def lin_readout_bwd_op(
    dy: Tensor,
    q: Tensor,
    S: Tensor,
    s: Tensor,
    m: Tensor,
    n: Tensor,
    tau: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    cu_seqlens: Tensor | None,
    state_index: Tensor | None,
    feature: str,
    norm: str,
    eps: float,
    eps_on: str,
    scale: float,
    cmin: float,
    centered: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    words = (feature, norm, eps, eps_on, scale, cmin, centered)
    with exactly(q):
        *grads, dtau = launcher(backend).readout_backward(
            dy, q, S, s, m, n, tau, cos, sin, cu_seqlens, state_index, *words
        )
    return *grads, S.new_empty(0) if dtau is None else dtau


@lin_readout_bwd_op.register_fake
def _(dy, q, S, s, m, n, tau, cos, sin, cu_seqlens, state_index, *words):
    dtau = S.new_empty(0) if tau is None else tau.new_empty(tau.shape)
    return *(x.new_empty(x.shape) for x in (q, S, s, m)), dtau


def _keep_readout(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.words = (*inputs[:10], inputs[10:])
    ctx.save_for_backward(*tensors)


def _readout_backward(ctx: Any, dy: Tensor) -> tuple:
    saved = ctx.saved_tensors  # read once: under activation checkpointing a second unpacking is an error
    *grads, dtau = lin_readout_bwd_op(dy.contiguous(), *saved, *ctx.words)
    return *grads, None, dtau if saved[5] is not None else None, *(None,) * 12


lin_readout_op.register_autograd(_readout_backward, setup_context=_keep_readout)
