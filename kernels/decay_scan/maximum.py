"""The running maximum of mLSTM, m_t = max(log_decay_t + m_{t-1}, gate_t), in log2 N steps over all tokens.

Pairs (log_decay, gate) compose: two spans in a row are (G1 + G2, max(m2, G2 + m1)), so spans double.
Float64 throughout: sums over all tokens, and (B, N, H) numbers only.
"""

import torch
from torch import Tensor


def neighbours(m: Tensor, initial: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> Tensor:
    """What each token's predecessor in the scan has in m (B, N, H); first tokens get their state's
    ``initial`` (R, H).
    """
    if cu_seqlens is None:
        if reverse:
            return torch.cat([m, initial.unsqueeze(1)], 1)[:, 1:]
        return torch.cat([initial.unsqueeze(1), m], 1)[:, :-1]
    states, tokens = initial.shape[0], m.shape[1]
    token = torch.arange(tokens, device=m.device)
    segment = torch.bucketize(token, cu_seqlens[1:].long(), right=True)
    first = cu_seqlens[segment + 1] - 1 == token if reverse else cu_seqlens[segment] == token
    before = token + (1 if reverse else -1) + states
    return torch.cat([initial, m[0]])[torch.where(first, segment, before)].unsqueeze(0)


def lasts(m: Tensor, initial: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> Tensor:
    """m after the last token of every state (R, H); ``initial`` where there is none."""
    if cu_seqlens is None:
        return m[:, 0 if reverse else -1]
    some = (cu_seqlens[1:] > cu_seqlens[:-1]).unsqueeze(-1)
    at = cu_seqlens[:-1] if reverse else cu_seqlens[1:] - 1
    return torch.where(some, m[0, at.long().clamp(0, m.shape[1] - 1)], initial)


def starts(x: Tensor, initial: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> Tensor:
    """Which tokens (B, N, 1) open a state's scan."""
    mark = torch.zeros_like(x[..., :1])
    return neighbours(mark, torch.ones_like(initial[:, :1]), cu_seqlens, reverse) > 0


def forward(
    log_decay: Tensor, gate: Tensor, initial: Tensor, cu_seqlens: Tensor | None, reverse: bool
) -> Tensor:
    """(B, N, H), (B, N, H), (R, H), all float64 -> m (B, N, H)."""
    first = starts(gate, initial, cu_seqlens, reverse)
    before = neighbours(torch.zeros_like(gate), initial, cu_seqlens, reverse)
    m = torch.where(first, torch.maximum(gate, log_decay + before), gate)
    decay = log_decay.masked_fill(first, -torch.inf)
    step = 1
    while step < m.shape[1]:
        here, there = (
            (slice(None, -step), slice(step, None)) if reverse else (slice(step, None), slice(None, -step))
        )
        joined = torch.maximum(m[:, here], decay[:, here] + m[:, there])
        decay[:, here] = decay[:, here] + decay[:, there]
        m[:, here] = joined
        step *= 2
    return m


def backward(
    dm: Tensor,
    m: Tensor,
    log_decay: Tensor,
    gate: Tensor,
    initial: Tensor,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of log_decay, gate and initial; where both sides are equal each takes half."""
    kept = log_decay + neighbours(m, initial, cu_seqlens, reverse)
    share = torch.where(kept == gate, 0.5, (kept > gate).to(m.dtype))
    first = starts(gate, initial, cu_seqlens, reverse)
    passed = share.masked_fill(first, 0)  # what goes on to the predecessor within the state
    total, gain = dm.clone(), torch.zeros_like(passed)
    here, there = (slice(1, None), slice(None, -1)) if reverse else (slice(None, -1), slice(1, None))
    gain[:, here] = passed[:, there]
    step = 1
    while step < m.shape[1]:
        here, there = (
            (slice(step, None), slice(None, -step)) if reverse else (slice(None, -step), slice(step, None))
        )
        joined = total[:, here] + gain[:, here] * total[:, there]
        product = gain[:, here] * gain[:, there]
        gain = torch.zeros_like(gain)
        gain[:, here] = product
        total[:, here] = joined
        step *= 2
    ddecay = share * total
    return ddecay, (1 - share) * total, first_sums(ddecay, initial, cu_seqlens, reverse)


def first_sums(x: Tensor, initial: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> Tensor:
    """x (B, N, H) at the first token of every state (R, H); 0 where there is none."""
    if cu_seqlens is None:
        return x[:, -1 if reverse else 0].clone()
    return lasts(x, torch.zeros_like(initial), cu_seqlens, not reverse)
