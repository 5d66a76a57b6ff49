"""The definition, token by token, which every faster form is compared with; slow, left to autograd.

Computed in float64 whatever the input; the results are rounded once, to what the faster forms return.

    S_t = diag(a_t) S_{t-1} + k_t v_t^T      o_t = scale R_t^T q_t      a_t = exp(log_decay_t)
    R_t = S_t;  diag(a_t) S_{t-1} + diag(bonus) k_t v_t^T with a bonus;
          S_{t-1} (+ diag(bonus) k_t v_t^T) when exclusive
"""

from itertools import pairwise

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from .state import NOTHING, MaxState

EPS = 1e-6  # mLSTM's, added to the stabilised denominator


def floor(m: Tensor) -> Tensor:
    """e^{-m}, the least that the denominator is; within range where every weight so far is 0."""
    return (-m).clamp(max=80.0 if m.dtype == torch.float32 else 700.0).exp()


def sequences(q: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> list[tuple[int, list[int]]]:
    """The row and the tokens, in the order of the scan, of every state."""
    if cu_seqlens is None:
        runs = [(b, range(q.shape[1])) for b in range(q.shape[0])]
    else:
        edges = cu_seqlens.tolist()
        runs = [(0, range(a, b)) for a, b in pairwise(edges)]
    return [(b, list(reversed(own) if reverse else own)) for b, own in runs]


def decay_scan_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    symmetric_block: int | None,
    bonus: Tensor | None,
    exclusive: bool,
    normalizer: str | None,
    input_gate: Tensor | None,
    scale: float,
    reverse: bool,
    initial: Tensor | MaxState | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor | MaxState]:
    acc, dtype = accumulation_dtype(q.dtype), q.dtype
    q, k, v, log_decay, bonus, input_gate = (
        None if x is None else x.double() for x in (q, k, v, log_decay, bonus, input_gate)
    )
    if log_decay.dim() == 1:
        log_decay = log_decay.expand(*q.shape[:3])
    if log_decay.dim() == 3:
        log_decay = log_decay.unsqueeze(-1)  # one for all channels
    out: list[list[Tensor]] = [[] for _ in range(q.shape[0])]
    finals = []
    for r, (b, order) in enumerate(sequences(q, cu_seqlens, reverse)):
        own = [x[b, order] for x in (q * scale, k, v, log_decay)]  # (T, H, .)
        start = _start(own[1].shape[-1], own[2].shape[-1], q, initial, r)
        if normalizer == "max":
            gate = torch.zeros_like(own[3][..., 0]) if input_gate is None else input_gate[b, order]
            rows, final = _normalised(*own, gate, start)
        elif symmetric_block is not None:
            rows, final = _symmetric(*own, symmetric_block, start)
        else:
            rows, final = _steps(*own, bonus, exclusive, start)
        out[b] += reversed(rows) if reverse else rows
        finals.append(final)
    o = torch.stack([torch.stack(rows) for rows in out]).to(dtype)
    if normalizer is None:
        return o, torch.stack(finals).to(acc)
    return o, MaxState(*(torch.stack(x).to(acc) for x in zip(*finals, strict=True)))


def _start(key_dim: int, value_dim: int, q: Tensor, initial: Tensor | MaxState | None, r: int) -> tuple:
    """(S, n, m) before the first token, float64."""
    heads = q.shape[2]
    if isinstance(initial, MaxState):
        return tuple(x[r].double() for x in initial)
    S = q.new_zeros(heads, key_dim, value_dim) if initial is None else initial[r].double()
    return S, q.new_zeros(heads, key_dim), q.new_full((heads,), NOTHING)


def _outer(k: Tensor, v: Tensor) -> Tensor:
    return k.unsqueeze(-1) * v.unsqueeze(-2)


def _read(q: Tensor, S: Tensor) -> Tensor:
    return (q.unsqueeze(-1) * S).sum(-2)


def _steps(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, bonus: Tensor | None, exclusive: bool, start: tuple
) -> tuple[list[Tensor], Tensor]:
    S, rows = start[0], []
    for t in range(len(q)):
        decayed = log_decay[t].exp().unsqueeze(-1) * S
        seen = S if exclusive else decayed
        S = decayed + _outer(k[t], v[t])
        if bonus is not None:
            seen = seen + _outer(bonus * k[t], v[t])
        elif not exclusive:
            seen = S
        rows.append(_read(q[t], seen))
    return rows, S


def _symmetric(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, block: int, start: tuple
) -> tuple[list[Tensor], Tensor]:
    """Within a block of tokens the decay is that of |i - j| and later tokens are seen as well."""
    S, rows = start[0], []
    for first in range(0, len(q), block):
        own = range(first, min(first + block, len(q)))
        for i in own:
            g = log_decay[i]  # the same for all tokens
            row = _read(q[i], (g * (i - first + 1)).exp().unsqueeze(-1) * S)
            for j in own:
                row = row + (q[i] * k[j]).sum(-1, keepdim=True) * (g * abs(i - j)).exp() * v[j]
            rows.append(row)
        for j in own:
            S = log_decay[j].exp().unsqueeze(-1) * S + _outer(k[j], v[j])
    return rows, S


def _normalised(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, input_gate: Tensor, start: tuple
) -> tuple[list[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """mLSTM: o = S^T q / (max(|n . q|, e^{-m}) + 1e-6), all under e^{-m}."""
    (S, n, m), rows = start, []
    for t in range(len(q)):
        kept = log_decay[t, :, 0] + m
        m = torch.maximum(kept, input_gate[t])
        keep, take = (kept - m).exp().unsqueeze(-1), (input_gate[t] - m).exp().unsqueeze(-1)
        S = keep.unsqueeze(-1) * S + _outer(take * k[t], v[t])
        n = keep * n + take * k[t]
        below = (q[t] * n).sum(-1).abs()
        rows.append(_read(q[t], S) / (torch.maximum(below, floor(m)) + EPS).unsqueeze(-1))
    return rows, (S, n, m)
