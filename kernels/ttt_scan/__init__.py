"""TTT-Linear: a linear model per head, trained on the tokens while they are read. Equations in README.md."""

from torch import Tensor

from ..autocast import as_autocast, exactly
from ..checks import accumulation_dtype, check_cu_seqlens
from ..transforms import choose_with_backward
from .arguments import BACKENDS, OP, check_options, check_parameters, check_tensors
from .ops import ttt_scan_op
from .reference import ttt_scan_reference

__all__ = ["ttt_scan"]


def ttt_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    position_rate: Tensor,
    W0: Tensor,
    b0: Tensor,
    gamma: Tensor,
    beta: Tensor,
    *,
    size: int = 16,
    eps: float = 1e-6,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Fast weights W, b that take a step of gradient descent on every mini-batch of tokens; O(N), causal.

        G_j = d/dZ_j 1/2 |LN(Z_j) - (v_j - k_j)|^2 at Z_j = k_j W + b      W, b at the mini-batch's start
        o_i = q_i + LN(q_i W + b - sum_{j <= i} e_ij (q_i . k_j + 1) G_j)      e_ij = position_rate_i rate_j
        W <- W - sum_j e_lj k_j^T G_j      b <- b - sum_j e_lj G_j      l the mini-batch's last token

    Args:
        q, k, v: (B, N, H, D), any strides, positions already turned in; float64, float32, bfloat16 or
            float16; under autocast all three are cast.
        rate: (B, N, H), learning rate of a token's own gradient.
        position_rate: (size,), learning rate by place in the mini-batch, meant >= 0.
        W0: (H, D, D), or (R, H, D, D) with R = B rows or G segments: weights before the first token.
        b0: (H, D), or (R, H, D).
        gamma, beta: (H, D), scale and offset of LN over D.
        size: tokens in a mini-batch, >= 1. Part of the model: changes results. The last one may be shorter.
        eps: > 0, of LN.
        cu_seqlens: (G + 1,) int32, first 0, last N, needs B = 1: segments are scanned on their own and begin
            with a new mini-batch. Values are checked on the CPU only.
        backend: "auto", "eager" or "reference" (slow: the definition, in float64); there is no Triton kernel.
    Returns: o (B, N, H, D) in q's dtype; (W (R, H, D, D), b (R, H, D)) after the last token, float32 (float64
        for float64). A call that starts from them continues this one, if N was a multiple of size. Segments
        without tokens pass W0, b0 on.
    Raises: ShapeError, ValueError or TypeError that name the argument; BackendError when a backend asked for
        by name cannot run.
    Once differentiable in every tensor but cu_seqlens; all but q, k, v may have floating dtypes of their own.
    Source: arXiv 2407.04620, the dual form.
    """
    check_tensors(q, k, v)
    q, k, v = as_autocast(q), as_autocast(k), as_autocast(v)
    check_options(q, k, v, size, eps)
    check_cu_seqlens(OP, cu_seqlens, "q", q)
    rows = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    check_parameters(q, rows, size, rate, position_rate, W0, b0, gamma, beta)
    chosen = choose_with_backward(OP, BACKENDS, backend, q)
    acc = accumulation_dtype(q.dtype)
    W0, b0 = (x.expand(rows, *x.shape[-dims:]) for x, dims in ((W0, 3), (b0, 2)))
    if chosen == "reference":
        parameters = (x.double() for x in (rate, position_rate, W0, b0, gamma, beta))
        with exactly(q):
            return ttt_scan_reference(q, k, v, *parameters, size, float(eps), cu_seqlens)
    parameters = (x.to(acc) for x in (rate, position_rate, W0, b0, gamma, beta))
    o, W, b = ttt_scan_op(q, k, v, *parameters, cu_seqlens, size, float(eps))
    return o, (W, b)
