"""Modules whose ``forward`` is another function for a while: how measures are switched on, and off again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import wraps
from typing import Any

from torch import Tensor, nn

Forward = Callable[..., Any]


def wrap(stack: ExitStack, module: nn.Module, around: Callable[..., Any]) -> None:
    """Until ``stack`` closes ``module.forward(...)`` is ``around(inner, ...)``, inner the present forward.

    The wrapper sits outside hooks of accelerate and diffusers, which are in ``inner``: they run at each call.
    """
    inner, before = module.forward, module.__dict__.get("forward")

    @wraps(inner)
    def forward(*args: Any, **words: Any) -> Any:
        return around(inner, *args, **words)

    def restore() -> None:
        if before is None:
            module.__dict__.pop("forward", None)
        else:
            module.forward = before

    stack.callback(restore)
    module.forward = forward


def token_parts(x: Tensor, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` tokens of (B, N, C), any N.

    On the meta device, where a plan is worked out, the first two, which show the peak, and the last.
    """
    starts = range(0, x.shape[1], size)
    if x.is_meta and len(starts) > 3:
        starts = (*starts[:2], starts[-1])
    for start in starts:
        yield slice(start, min(start + size, x.shape[1]))


def by_parts(function: Callable[[slice], Tensor], x: Tensor, size: int) -> Tensor:
    """(B, N, .): ``function`` of every part of ``x``'s tokens, written into one result."""
    out = None
    for part in token_parts(x, size):
        y = function(part)
        if out is None:
            out = y.new_empty(*x.shape[:2], y.shape[-1])
        out[:, part] = y
    return out
