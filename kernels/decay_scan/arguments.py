"""What ``decay_scan`` accepts, put together from the single checks."""

import torch
from torch import Tensor

from .. import checks
from ..dispatch import BACKENDS, Backend
from .state import MaxState

OP = "decay_scan"
# Tokens of a symmetric block that the Triton kernels take: each is one program's.
LARGEST_BLOCK = 64
WIDEST = 64  # key or value columns of float32 calls whose decays all channels share


def backends_for(q: Tensor, v: Tensor, log_decay: Tensor, symmetric_block: int | None) -> tuple[Backend, ...]:
    """The candidates for a call; what the Triton kernels do not take is said by theirs."""
    reason = None
    if symmetric_block is not None and symmetric_block > LARGEST_BLOCK:
        reason = f"takes symmetric_block up to {LARGEST_BLOCK}"
    elif q.is_cuda and log_decay.dim() < 4:
        # found on an H200 with Triton 3.6: a wrong dq in float16, an illegal access in float32 at 72 columns
        widest = max(q.shape[3], v.shape[3])
        if q.dtype == torch.float16:
            reason = "decays shared by all channels are refused in float16 (wrong gradients on an H200)"
        elif q.dtype == torch.float32 and widest > WIDEST:
            reason = f"decays shared by all channels take float32 up to {WIDEST} wide, got {widest}"
    if reason is None:
        return BACKENDS
    return (Backend("triton", lambda x: reason, lambda x: not x.is_cuda), *BACKENDS[1:])


def check_tokens(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> None:
    checks.check_keys_values(OP, k, v)
    checks.check_queries(OP, q, k)
    if not isinstance(log_decay, Tensor):
        raise TypeError(f"{OP}: log_decay must be a tensor, got {type(log_decay).__name__}")
    shapes = {1: ("(H,)", q.shape[2:3]), 3: ("(B, N, H)", q.shape[:3]), 4: ("(B, N, H, D)", q.shape)}
    if log_decay.dim() not in shapes:
        checks.refuse(OP, "log_decay", "be (H,), (B, N, H) or (B, N, H, D)", tuple(log_decay.shape))
    layout, shape = shapes[log_decay.dim()]
    check_beside("log_decay", log_decay, layout, tuple(shape), q)


def check_beside(name: str, x: Tensor, layout: str, shape: tuple[int, ...], q: Tensor) -> None:
    """That shape, a floating dtype of its own, q's device."""
    checks.check_shape(OP, name, x, layout, shape)
    checks.check_floating(OP, name, x)
    checks.check_like(OP, name, x, "q", q, x.dtype)


def check_options(
    q: Tensor,
    log_decay: Tensor,
    symmetric_block: int | None,
    bonus: Tensor | None,
    exclusive: bool,
    normalizer: str | None,
    input_gate: Tensor | None,
    scale: float,
    reverse: bool,
    chunk: int,
) -> None:
    for name, flag in (("exclusive", exclusive), ("reverse", reverse)):
        if not isinstance(flag, bool):
            raise TypeError(f"{OP}: {name} must be True or False, got {type(flag).__name__}")
    if normalizer not in (None, "max"):
        raise ValueError(f"{OP}: normalizer must be None or 'max', got {normalizer!r}")
    checks.check_number(OP, "scale", scale)
    checks.check_integer(OP, "chunk", chunk, least=1)
    if bonus is not None:
        check_beside("bonus", bonus, "(H, D)", tuple(q.shape[2:]), q)
    if input_gate is not None:
        if normalizer != "max":
            raise ValueError(f"{OP}: input_gate must be None unless normalizer='max', got a tensor")
        check_beside("input_gate", input_gate, "(B, N, H)", tuple(q.shape[:3]), q)
    if symmetric_block is not None:
        checks.check_integer(OP, "symmetric_block", symmetric_block, least=1)
        if log_decay.dim() != 1:
            checks.refuse(OP, "log_decay", "be constant, (H,), with symmetric_block", tuple(log_decay.shape))
    if normalizer == "max" and log_decay.dim() == 4:
        wanted = "be (H,) or (B, N, H) with normalizer='max'"
        checks.refuse(OP, "log_decay", wanted, tuple(log_decay.shape))
    _check_together(symmetric_block, bonus, exclusive, normalizer)


def _check_together(
    symmetric_block: int | None, bonus: Tensor | None, exclusive: bool, normalizer: str | None
) -> None:
    """A symmetric block, the RWKV options and the normaliser each change the same diagonal: one at most."""
    rwkv = "bonus" if bonus is not None else "exclusive" if exclusive else None
    for other, given in (("symmetric_block", symmetric_block), ("normalizer", normalizer)):
        if rwkv is not None and given is not None:
            nothing = "None" if rwkv == "bonus" else "False"
            raise ValueError(f"{OP}: {rwkv} must be {nothing} with {other}={given!r}, got both")
    if symmetric_block is not None and normalizer is not None:
        raise ValueError(
            f"{OP}: symmetric_block must be None with normalizer={normalizer!r}, got {symmetric_block}"
        )


def check_initial(
    q: Tensor, v: Tensor, normalizer: str | None, initial: Tensor | MaxState | None, cu_seqlens: Tensor | None
) -> None:
    if initial is None:
        return
    heads, key_dim, value_dim = q.shape[2], q.shape[3], v.shape[3]
    rows, where = (q.shape[0], "B") if cu_seqlens is None else (cu_seqlens.shape[0] - 1, "G")
    if normalizer == "max":
        if not isinstance(initial, MaxState):
            raise TypeError(
                f"{OP}: initial must be a MaxState with normalizer='max', got {type(initial).__name__}"
            )
        parts = {"initial.S": initial.S, "initial.n": initial.n, "initial.m": initial.m}
    else:
        parts = {"initial": initial}
    shapes = (("D, E", (key_dim, value_dim)), ("D", (key_dim,)), ("", ()))
    acc = checks.accumulation_dtype(q.dtype)
    for (name, x), (layout, shape) in zip(parts.items(), shapes, strict=False):
        layout = f"({where}, H, {layout})" if layout else f"({where}, H)"
        checks.check_shape(OP, name, x, layout, (rows, heads, *shape))
        checks.check_like(OP, name, x, "q", q, acc)


def check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x, layout in (("q", q, "(B, N, H, D)"), ("k", k, "(B, N, H, D)"), ("v", v, "(B, N, H, E)")):
        checks.check_tokens(OP, name, x, layout)
