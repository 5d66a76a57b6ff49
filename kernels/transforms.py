"""Derivatives that are taken by other means than the backward which the ops have."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad

from .dispatch import Backend, choose
from .errors import BackendError


def derivatives_are_transformed() -> bool:
    """Whether torch.func.grad, vjp, jvp (or what is made of them) or a forward-mode level is at work.

    The ops have no forward-mode formula, which torch takes for a derivative of 0 without a word, and
    torch.func cannot use their backward. A compiler sees plain torch anyway.
    """
    if torch.compiler.is_compiling():
        return False
    by_func = any(i.key() == TransformType.Grad for i in get_interpreter_stack() or ())
    return by_func or forward_ad._current_level >= 0


def choose_with_backward(op: str, backends: Sequence[Backend], asked: str, x: Tensor) -> str:
    """``choose``, for ops of which only "reference" takes transformed derivatives.

    Raises: as ``choose``; BackendError where another backend would have to take them.
    """
    chosen = choose(op, backends, asked, x)
    if chosen != "reference" and derivatives_are_transformed():
        raise BackendError(
            f"{op}: backend must be 'reference' under torch.func.grad, vjp, jvp and forward-mode "
            f"derivatives, got {asked!r}"
        )
    return chosen
