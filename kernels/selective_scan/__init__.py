"""Mamba's selective scan: a decay per channel and state that tokens choose, O(N). Equations in README.md."""

import torch
from torch import Tensor

from ..autocast import as_autocast, exactly
from ..dispatch import Backend
from ..transforms import choose_with_backward
from ..triton_available import why_not
from .arguments import OP, check_options, check_shapes, check_tensors
from .ops import selective_scan_op
from .reference import selective_scan_reference
from .triton_tiles import WIDEST

__all__ = ["selective_scan"]


def _why_no_triton(B: Tensor) -> str | None:
    reason = why_not(B)
    if reason is None and B.shape[-1] > WIDEST:
        return f"takes up to {WIDEST} states a channel, got {B.shape[-1]}"
    return reason


BACKENDS = (
    Backend("triton", _why_no_triton, by_name_only=lambda x: not x.is_cuda),  # off the GPU: the interpreter
    Backend("eager", lambda x: None, by_name_only=lambda x: False),
    Backend("reference", lambda x: None, by_name_only=lambda x: True),
)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    initial: Tensor | None = None,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """A state per channel that every token decays by its own step, adds to and reads in order.

        h_t = e^{delta_t A} h_{t-1} + delta_t u_t B_t      y_t = <C_t, h_t> + D u_t

    Args:
        u: (B, N, C) float64, float32, bfloat16 or float16; N >= 1, any strides. Under autocast u, B and C are
            cast.
        delta: (B, N, C) step of each token and channel, after its softplus; meant >= 0 (not checked). Any
            floating dtype; float32 is advised.
        A: (C, S) log decay of a step of 1, meant <= 0 (not checked): -exp(A_log) in Mamba. Any floating
            dtype.
        B, C: (B, N, S) in u's dtype: what a token writes and reads with, the same for all channels.
        D: (C,) weight of u itself, any floating dtype; None: 0.
        initial: (R, C, S) state before the first token, float32 (float64 for float64); None: 0. R = B rows,
            or G segments.
        reverse: from the last token to the first, as if u, delta, B, C and y were flipped along N.
        cu_seqlens: (G + 1,) int32, first 0, last N, needs B = 1: segments are scanned on their own. Values
            are checked on the CPU only.
        backend: "auto", "triton" (CUDA), "eager", "reference" (slow: the definition, in float64).
    Returns: y (B, N, C) in u's dtype, and the state after the last token, (R, C, S), float32 (float64 for
        float64). A call that starts from the state of another continues it. Empty segments pass their initial
        state on.
    Raises: ShapeError, ValueError or TypeError that name the argument; BackendError when a backend asked for
        by name cannot run, and under torch.func and forward-mode derivatives (only "reference" takes them).
    Once differentiable in u, delta, A, B, C, D and initial. Source: Mamba, arXiv 2312.00752.
    """
    check_tensors(u, delta, A, B, C, D)
    u, B, C = as_autocast(u), as_autocast(B), as_autocast(C)
    check_shapes(u, delta, A, B, C, D)
    check_options(u, A.shape[1], initial, reverse, cu_seqlens)
    chosen = choose_with_backward(OP, BACKENDS, backend, B)
    if chosen == "reference":
        with exactly(u):
            return selective_scan_reference(u, delta, A, B, C, D, initial, reverse, cu_seqlens)
    tensors = (u, delta, A, B, C, D, initial)
    y, state, _ = selective_scan_op(*tensors, cu_seqlens, reverse, _keeps(tensors), chosen)
    return y, state


def _keeps(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether states between chunks are returned for a backward, which can also do without.

    Not by exported programs: how many there are would bind the numbers of tokens that they take.
    """
    asked = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    return asked and not torch.compiler.is_exporting()
