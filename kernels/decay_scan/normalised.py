"""mLSTM's normaliser on the plain scan: weights under a running maximum, keys summed beside values."""

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from .maximum import lasts, neighbours
from .ops import decay_max_op, decay_scan_op
from .reference import EPS, floor
from .scalar_gates import LEAST
from .state import NOTHING, MaxState


def normalised(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    input_gate: Tensor | None,
    initial: MaxState | None,
    cu_seqlens: Tensor | None,
    scale: float,
    reverse: bool,
    chunk: int,
    backend: str,
) -> tuple[Tensor, MaxState]:
    """With m the running maximum, k_t enters with e^{gate_t - m_t} <= 1 and the state decays by
    e^{log_decay_t + m_{t-1} - m_t} <= 1: a plain scan, whatever m is. The sum of keys n is the state of a
    value that is always 1.
    """
    acc, states = accumulation_dtype(q.dtype), q.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    decay = log_decay.double().clamp(min=LEAST).expand(q.shape[:3])  # float64: sums over many tokens follow
    gate = torch.zeros_like(decay) if input_gate is None else input_gate.double()
    if initial is None:
        start, m = None, decay.new_full((states, q.shape[2]), NOTHING)
    else:
        start = torch.cat([initial.S, initial.n.unsqueeze(-1)], -1)
        m = initial.m.double().clamp(min=NOTHING)
    maxima = decay_max_op(decay, gate, m, cu_seqlens, reverse)
    under = decay + neighbours(maxima, m, cu_seqlens, reverse) - maxima
    tensors = (q, k, v, under, gate - maxima, None, start, cu_seqlens)
    sums, S = decay_scan_op(*tensors, 0, False, True, scale, reverse, chunk, backend)
    least = floor(maxima.to(acc)).unsqueeze(-1)
    o = sums[..., :-1] / (torch.maximum(sums[..., -1:].abs(), least) + EPS)
    last = lasts(maxima, m, cu_seqlens, reverse).to(acc)
    return o.to(q.dtype), MaxState(S[..., :-1], S[..., -1], last)
