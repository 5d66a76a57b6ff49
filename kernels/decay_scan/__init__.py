"""Decayed recurrences over tokens, causal or by blocks, O(N). Equations in README.md."""

from torch import Tensor

from .. import checks
from ..autocast import as_autocast, exactly
from ..transforms import choose_with_backward
from .arguments import (
    OP,
    backends_for,
    check_initial,
    check_options,
    check_tensors,
    check_tokens,
)
from .normalised import normalised
from .ops import decay_scan_op
from .reference import decay_scan_reference
from .state import MaxState

__all__ = ["MaxState", "decay_scan"]


def decay_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    symmetric_block: int | None = None,
    bonus: Tensor | None = None,
    exclusive: bool = False,
    normalizer: str | None = None,
    input_gate: Tensor | None = None,
    scale: float = 1.0,
    reverse: bool = False,
    initial: Tensor | MaxState | None = None,
    cu_seqlens: Tensor | None = None,
    chunk: int = 64,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | MaxState]:
    """A state that every token decays, adds to and reads in order: retention, gated attention, RWKV, mLSTM.

        S_t = diag(a_t) S_{t-1} + k_t v_t^T      o_t = scale S_t^T q_t      a_t = exp(log_decay_t)

    Args:
        q, k: (B, N, H, D), any strides; N >= 1.
        v: (B, N, H, E), same dtype: float64, float32, bfloat16, float16; under autocast all three are cast.
        log_decay: natural log, meant <= 0 (not checked; 0 keeps everything, -inf resets): (H,) constant,
            (B, N, H) per token, (B, N, H, D) per token and key channel. Any floating dtype; float32 is
            advised.
        symmetric_block: LION's RetNet. Tokens are cut into blocks of that many; within a block i sees every
            j with decay a^|i - j|, blocks before it as always. Constant decay only. Changes results.
        bonus: (H, D), differentiable: the current token counts with that weight instead of 1 (RWKV's u).
        exclusive: o_t reads S_{t-1}: decay stops before the current token, which counts only by ``bonus``.
        normalizer: None or "max" (mLSTM): with n_t the sum of weighted keys and m_t the largest log weight,
            o_t = S_t^T q' / (max(|n_t . q'|, e^{-m_t}) + 1e-6), q' = scale q, with S_t and n_t held under
            e^{-m_t}. Not with decays per channel.
        input_gate: (B, N, H) with "max" only: log of the weight that k_t enters with; None is 0.
        scale: number that multiplies q.
        reverse: from the last token to the first, as if every argument and o were flipped along N.
        initial: the state before the first token: (R, H, D, E), with "max" a MaxState; float32 (float64 for
            float64). R = B rows, or G segments.
        cu_seqlens: (G + 1,) int32, first 0, last N, needs B = 1: segments are scanned on their own. Values
            are checked on the CPU only.
        chunk: tokens worked on at a time by "eager", >= 1; changes speed, never results.
        backend: "auto", "triton" (CUDA; not float64, blocks up to 64; decays shared by all channels:
            bfloat16, or float32 with D and E up to 64), "eager", "reference" (slow: the definition, in
            float64).
    Returns: o (B, N, H, E) in q's dtype, and the state after the last token like ``initial``. A call that
        starts from the state of another continues it (with symmetric_block: at a block's end). Empty
        segments pass their initial state on.
    Raises: ShapeError, ValueError or TypeError that name the argument; BackendError when a backend asked for
        by name cannot run.
    Once differentiable in q, k, v, log_decay, bonus, input_gate and initial. Sources: README.md.
    """
    check_tensors(q, k, v)
    q, k, v = as_autocast(q), as_autocast(k), as_autocast(v)
    check_tokens(q, k, v, log_decay)
    check_options(
        q, log_decay, symmetric_block, bonus, exclusive, normalizer, input_gate, scale, reverse, chunk
    )
    checks.check_cu_seqlens(OP, cu_seqlens, "q", q)
    check_initial(q, v, normalizer, initial, cu_seqlens)
    chosen = choose_with_backward(OP, backends_for(q, v, log_decay, symmetric_block), backend, q)
    words = (symmetric_block, bonus, exclusive, normalizer, input_gate, float(scale), reverse, initial)
    if chosen == "reference":
        with exactly(q):
            return decay_scan_reference(q, k, v, log_decay, *words, cu_seqlens)
    if normalizer == "max":
        tensors = (q, k, v, log_decay, input_gate, initial, cu_seqlens)
        return normalised(*tensors, float(scale), reverse, chunk, chosen)
    tensors = (q, k, v, log_decay, None, bonus, initial, cu_seqlens)
    return decay_scan_op(
        *tensors, symmetric_block or 0, exclusive, False, float(scale), reverse, chunk, chosen
    )
