"""The scan in plain torch, a group of tiles at a time, backward by hand.

Within a tile tokens meet by a matrix of weights A; tiles meet through states. With Q and K a tile's decayed
queries and keys,

    o = A v + Q S_in        S_out = e^T S_in + K^T v

Forward and backward keep nothing of the inputs' size but their results and, in the backward, the state before
every group, which it computes again. Not twice differentiable. Works on every device; sums and states in
float32 (float64 for float64).
"""

import torch
from torch import Tensor

from .rounds import advance, retreat
from .scalar_gates import GateGradients
from .scan import Inputs, Scan, Words
from .tiles import Group, Packed


def scan_forward(x: Inputs, words: Words) -> tuple[Tensor, Tensor]:
    scan = Scan(x, words)
    dtype = scan.dtype if words.count else x.q.dtype
    o = torch.empty(*x.q.shape[:3], scan.value_dim, dtype=dtype, device=x.q.device)
    S = scan.states(x.initial)
    for sweep in scan.plan:
        own = S[sweep.states]
        for group in sweep.groups:
            inside, _, _ = scan.attention(group, overwrite=True)
            v = scan.values(group)
            value = torch.matmul(inside.weights, v)
            entry = advance(own, inside.keys, v, inside.keep, group.rounds)
            value.flatten(0, 1).baddbmm_(inside.queries.flatten(0, 1).mT, entry.flatten(0, 1))
            group.put(o, value)
    return o, scan.restored(S)


def entries(scan: Scan, S: Tensor, groups: list[Group]) -> list[Tensor]:
    """The states (R, H, D, E) before every group."""
    found = [S]
    for group in groups[:-1]:
        keys, keep = scan.exits(group, scan.keys(group))
        S = S.clone()
        advance(S, keys, scan.values(group), keep, group.rounds)
        found.append(S)
    return found


class Gradients:
    """Where a backward gathers its results."""

    def __init__(self, scan: Scan) -> None:
        x = scan.x
        self.scan = scan
        self.q, self.k, self.v = (
            torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x.q, x.k, x.v)
        )
        self.log_weight = (
            None
            if x.log_weight is None
            else torch.empty_like(x.log_weight, memory_format=torch.contiguous_format)
        )
        self.bonus = None if x.bonus is None else x.q.new_zeros(x.bonus.shape, dtype=scan.dtype)
        self.constant = x.log_decay.dim() == 1
        self.log_decay = None
        if scan.words.decay_gradient:
            shape = x.log_decay.shape
            self.log_decay = (
                x.q.new_zeros(shape, dtype=scan.dtype) if self.constant else x.log_decay.new_empty(shape)
            )
        # per channel they fall out of those of q and k: only the scalar forms do without
        self.decays = scan.vector or scan.words.decay_gradient

    def put(self, group: Group, inner: GateGradients, k: Tensor) -> None:
        """One group's, from those of scaled q and weighted k, which are overwritten."""
        if self.log_weight is not None:
            dlog_weight = (inner.dk * k).sum(-2, keepdim=True)
            group.put(self.log_weight.unsqueeze(-1), dlog_weight, by_channel=True)
            inner.dk.mul_(self.scan.weight(group))
        if self.scan.words.scale != 1:
            inner.dq.mul_(self.scan.words.scale)
        group.put(self.q, inner.dq, by_channel=True)
        group.put(self.k, inner.dk, by_channel=True)
        if self.log_decay is not None:
            self._put_log_decay(group, inner.dlog_decay)

    def _put_log_decay(self, group: Group, value: Tensor) -> None:
        if self.scan.vector:
            group.put(self.log_decay, value, by_channel=True)
        elif not self.constant:
            group.put(self.log_decay.unsqueeze(-1), value.unsqueeze(-1))
        else:
            if isinstance(self.scan.plan, Packed):
                value = value * group.valid.unsqueeze(1)
            self.log_decay += value.sum((0, 2))


def scan_backward(do: Tensor, dS: Tensor, x: Inputs, words: Words) -> tuple[Tensor | None, ...]:
    """Gradients of q, k, v, log_decay, log_weight, bonus and initial; None where not given or not wanted."""
    scan = Scan(x, words)
    grads = Gradients(scan)
    S, dS = scan.states(x.initial), scan.states(dS)
    for sweep in scan.plan:
        found = entries(scan, S[sweep.states], sweep.groups)
        for group in reversed(sweep.groups):
            group_backward(scan, group, found.pop(), do, dS[sweep.states], grads)
    dinitial = None if x.initial is None else scan.restored(dS)
    dbonus = None if grads.bonus is None else grads.bonus.to(x.bonus.dtype)
    return (
        grads.q,
        grads.k,
        grads.v,
        None if grads.log_decay is None else grads.log_decay.to(x.log_decay.dtype),
        grads.log_weight,
        dbonus,
        dinitial,
    )


def group_backward(scan: Scan, group: Group, S: Tensor, do: Tensor, dS: Tensor, grads: Gradients) -> None:
    """One group's gradients, from the states S (R, H, D, E) before it, which are overwritten; dS of its last
    exits becomes that of its first entries.
    """
    (inside, q, k), v = scan.attention(group), scan.values(group)
    entry = advance(S, inside.keys, v, inside.keep, group.rounds)
    g = group.load(do, scan.dtype)
    dexit = retreat(dS, inside.queries, g, inside.keep, group.rounds)
    dv = torch.matmul(inside.weights.mT, g)
    dv.flatten(0, 1).baddbmm_(inside.keys.flatten(0, 1).mT, dexit.flatten(0, 1))
    group.put(grads.v, dv[..., : grads.v.shape[-1]])
    v = scan.values(group, by_channel=True)
    dweights = torch.matmul(g, v)
    count = scan.current()
    if count is not None:
        ddiagonal = dweights.diagonal(dim1=-2, dim2=-1).unsqueeze(-2).clone()
    inner = inside.backward(
        dweights,
        torch.matmul(entry, group.load(do, scan.dtype, by_channel=True)),
        torch.matmul(dexit, v),
        entry.mul_(dexit).sum(-1, keepdim=True) if grads.decays else None,
    )
    if count is not None:
        counted = ddiagonal * count
        inner.dq.addcmul_(counted, k)
        inner.dk.addcmul_(counted, q)
    if grads.bonus is not None:
        grads.bonus += (ddiagonal * q).mul_(k).sum((0, 3))
    grads.put(group, inner, k)
