"""Registration with torch.library: one op forward, one backward, opaque to compilers.

Each takes flat tensors and plain values; ``geometry`` is a ``Geometry`` as a list of integers (an exporter
may keep them symbolic), ``backend`` names the module that does the work. The backward has no backward of its
own: torch raises if asked for one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..autocast import exactly
from ..checks import accumulation_dtype
from .geometry import Geometry


def forward_of(backend: str) -> Callable[..., tuple[Tensor, Tensor]]:
    if backend == "eager":
        from .eager import forward
    else:
        from .triton_launch import forward
    return forward


def backward_of(backend: str) -> Callable[..., tuple]:
    if backend == "eager":
        from .eager_backward import backward
    else:
        from .triton_launch import backward
    return backward


@torch.library.custom_op("linzoo::local_attn", mutates_args=())
def local_attn_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra_k: Tensor | None,
    extra_v: Tensor | None,
    geometry: Sequence[int],
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    with exactly(q):
        return forward_of(backend)(q, k, v, extra_k, extra_v, Geometry(*geometry), scale)


@local_attn_op.register_fake
def _(q, k, v, extra_k, extra_v, geometry, scale, backend):
    y = q.new_empty((*q.shape[:3], v.shape[3]))
    return y, q.new_empty(q.shape[:3], dtype=accumulation_dtype(q.dtype))


@torch.library.custom_op("linzoo::local_attn_bwd", mutates_args=())
def local_attn_bwd_op(
    dy: Tensor,
    dlse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra_k: Tensor | None,
    extra_v: Tensor | None,
    y: Tensor,
    lse: Tensor,
    geometry: Sequence[int],
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    with exactly(q):
        *grads, dek, dev = backward_of(backend)(
            dy, dlse, q, k, v, extra_k, extra_v, y, lse, Geometry(*geometry), scale
        )
    if dek is None:  # an op cannot return None among tensors
        dek, dev = q.new_empty(0), q.new_empty(0)
    return *grads, dek, dev


@local_attn_bwd_op.register_fake
def _(dy, dlse, q, k, v, extra_k, extra_v, y, lse, geometry, scale, backend):
    extras = (q.new_empty(0 if x is None else x.shape) for x in (extra_k, extra_v))
    return *(x.new_empty(x.shape) for x in (q, k, v)), *extras


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, ctx.geometry, ctx.scale, ctx.backend = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, dy: Tensor, dlse: Tensor) -> tuple:
    q, k, v, extra_k, extra_v, y, lse = ctx.saved_tensors
    *grads, dek, dev = local_attn_bwd_op(
        dy.contiguous(),
        dlse.contiguous(),
        q,
        k,
        v,
        extra_k,
        extra_v,
        y,
        lse,
        ctx.geometry,
        ctx.scale,
        ctx.backend,
    )
    extras = (None, None) if extra_k is None else (dek, dev)
    return *grads, *extras, None, None, None


local_attn_op.register_autograd(_backward, setup_context=_keep)
