"""The scan in plain torch, a group of tiles at a time, backward by hand.

Within a tile tokens meet by a matrix of weights A; tiles meet through states. With Q and K a tile's decayed
queries and keys,

    o = A v + Q S_in        S_out = e^T S_in + K^T v

Forward and backward keep nothing of the inputs' size but their results and, in the backward, the state before
every group, which it computes again. Not twice differentiable. Works on every device; sums and states in
float32 (float64 for float64).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from .scalar_gates import ScalarAttention, ScalarGates
from .tiles import Group, Packed, Rows, plan
from .vector_gates import Factorised, Halved, exits, vector_attention

# Tokens: more cost more than they save.
CPU_TILE = {"scalar": 64, "channel": 32}


class Inputs(NamedTuple):
    """The tensors of one call; log_weight (B, N, H) multiplies k by its exponential."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    log_weight: Tensor | None
    bonus: Tensor | None
    initial: Tensor | None
    cu_seqlens: Tensor | None


class Words(NamedTuple):
    """The rest; ``count`` gives v a last column of ones, symmetric_block 0 means none."""

    symmetric_block: int
    exclusive: bool
    count: bool
    scale: float
    reverse: bool
    chunk: int


class Scan:
    """The tiles, and what a group of them holds."""

    def __init__(self, x: Inputs, words: Words) -> None:
        self.x, self.words, self.dtype = x, words, accumulation_dtype(x.q.dtype)
        self.key_dim, self.value_dim = x.q.shape[3], x.v.shape[3] + words.count
        self.vector = x.log_decay.dim() == 4
        chunk = words.symmetric_block or min(words.chunk, self.longest())
        width = max(self.key_dim, self.value_dim, min(chunk, x.q.shape[1]))
        self.plan: Rows | Packed = plan(x.q, width, chunk, words.reverse, self.vector, x.cu_seqlens)
        self.shared: dict[int, ScalarGates] = {}  # constant decay: by the tiles' length

    def longest(self) -> int:
        """Most tokens of a tile."""
        if self.x.q.device.type != "cpu":
            return self.words.chunk
        return CPU_TILE["channel" if self.vector else "scalar"]

    def states(self, given: Tensor | None) -> Tensor:
        """(R, H, D, E) in the plan's order, a copy; zeros for None."""
        shape = (self.plan.states, self.x.q.shape[2], self.key_dim, self.value_dim)
        if given is None:
            return torch.zeros(shape, dtype=self.dtype, device=self.x.q.device)
        return (
            given.clone(memory_format=torch.contiguous_format)
            if self.plan.order is None
            else given[self.plan.order]
        )

    def restored(self, states: Tensor) -> Tensor:
        """Back from the plan's order."""
        if self.plan.order is None:
            return states
        return torch.empty_like(states).index_copy_(0, self.plan.order, states)

    def keys_values(self, group: Group) -> tuple[Tensor, Tensor, Tensor | None]:
        """k with its weight, v with its column of ones (t, H, C, .); and the weight (t, H, C, 1)."""
        k, v = group.load(self.x.k, self.dtype), group.load(self.x.v, self.dtype)
        if self.words.count:
            v = torch.nn.functional.pad(v, (0, 1), value=1.0)
        if self.x.log_weight is None:
            return k, v, None
        weight = group.load(self.x.log_weight.unsqueeze(-1), self.dtype).exp_()
        return k.mul_(weight), v, weight

    def queries(self, group: Group) -> Tensor:
        q = group.load(self.x.q, self.dtype)
        return q if self.words.scale == 1 else q.mul_(self.words.scale)

    def attention(self, group: Group, q: Tensor, k: Tensor) -> ScalarAttention | Factorised | Halved:
        if self.vector:
            log_decay = group.load(self.x.log_decay, self.dtype)
            return vector_attention(log_decay, q, k, self.words.exclusive)
        return self.gates(group).attention(q, k)

    def exits(self, group: Group, k: Tensor) -> tuple[Tensor, Tensor]:
        """Decayed keys and ``keep``: all that states need."""
        if self.vector:
            return exits(group.load(self.x.log_decay, self.dtype), k)
        gates = self.gates(group)
        return k.mul_(gates.keys), gates.keep

    def gates(self, group: Group) -> ScalarGates:
        constant = self.x.log_decay.dim() == 1
        current = 0.0 if self.words.exclusive or self.x.bonus is not None else 1.0
        words = (self.words.exclusive, self.words.symmetric_block > 0, current, self.dtype)
        if not constant:
            return ScalarGates(group.load(self.x.log_decay.unsqueeze(-1), torch.float64).squeeze(-1), *words)
        if isinstance(self.plan, Packed):
            return ScalarGates(self.padded_decay(group), *words)
        if group.length not in self.shared:
            log_decay = self.x.log_decay.view(1, -1, 1).expand(-1, -1, group.length)
            self.shared[group.length] = ScalarGates(log_decay, *words)
        return self.shared[group.length]

    def padded_decay(self, group: Group) -> Tensor:
        """Constant decay (t, H, C), 0 beyond a segment's end."""
        return self.x.log_decay.view(1, -1, 1) * group.valid.unsqueeze(1)

    def add_current(self, weights: Tensor, q: Tensor, k: Tensor) -> Tensor | float:
        """Adds to A (t, H, C, C) what the current token counts, unless it is there; returns its weight: a
        bonus (H, 1, D), 1, or 0 where nothing was added.
        """
        if self.x.bonus is not None:
            count = self.x.bonus.to(self.dtype).unsqueeze(1)
            product = (q * count).mul_(k)
        elif self.vector and not self.words.exclusive:
            count, product = 1.0, q * k
        else:
            return 0.0
        weights.diagonal(dim1=-2, dim2=-1).add_(product.sum(-1))
        return count


def advance(S: Tensor, update: Tensor, keep: Tensor, rounds: list[int]) -> Tensor:
    """S (R, H, D, E) through the tiles' S = keep S + update, in place; returns S before every tile."""
    entry = torch.empty_like(update)
    befores, updates = entry.split(rounds), update.split(rounds)
    kept = [keep] * len(rounds) if keep.shape[0] == 1 else keep.split(rounds)
    befores[0].copy_(S[: rounds[0]])
    for r, n in enumerate(rounds):
        if r + 1 < len(rounds) and rounds[r + 1] == n:
            torch.addcmul(updates[r], befores[r], kept[r], out=befores[r + 1])
            continue
        torch.addcmul(updates[r], befores[r], kept[r], out=S[:n])  # some states end here
        if r + 1 < len(rounds):
            befores[r + 1].copy_(S[: rounds[r + 1]])
    return entry


def retreat(dS: Tensor, dentry: Tensor, keep: Tensor, rounds: list[int]) -> Tensor:
    """``advance`` backwards: dS of the last exits becomes that of the first entries, in place; returns that
    of every exit.
    """
    dexit = torch.empty_like(dentry)
    afters, dentries = dexit.split(rounds), dentry.split(rounds)
    kept = [keep] * len(rounds) if keep.shape[0] == 1 else keep.split(rounds)
    afters[-1].copy_(dS[: rounds[-1]])
    for r in range(len(rounds) - 1, -1, -1):
        if r and rounds[r - 1] == rounds[r]:
            torch.addcmul(dentries[r], afters[r], kept[r], out=afters[r - 1])
            continue
        torch.addcmul(dentries[r], afters[r], kept[r], out=dS[: rounds[r]])
        if r:
            afters[r - 1].copy_(dS[: rounds[r - 1]])
    return dexit


def scan_forward(x: Inputs, words: Words) -> tuple[Tensor, Tensor]:
    scan = Scan(x, words)
    dtype = scan.dtype if words.count else x.q.dtype
    o = torch.empty(*x.q.shape[:3], scan.value_dim, dtype=dtype, device=x.q.device)
    S = scan.states(x.initial)
    for sweep in scan.plan:
        own = S[sweep.states]
        for group in sweep.groups:
            q, (k, v, _) = scan.queries(group), scan.keys_values(group)
            inside = scan.attention(group, q, k)
            scan.add_current(inside.weights, q, k)
            value = torch.matmul(inside.weights, v)
            entry = advance(own, torch.matmul(inside.keys.mT, v), inside.keep, group.rounds)
            value.flatten(0, 1).baddbmm_(inside.queries.flatten(0, 1), entry.flatten(0, 1))
            group.put(o, value)
    return o, scan.restored(S)


def entries(scan: Scan, S: Tensor, groups: list[Group]) -> list[Tensor]:
    """The states (R, H, D, E) before every group."""
    found = [S]
    for group in groups[:-1]:
        k, v, _ = scan.keys_values(group)
        keys, keep = scan.exits(group, k)
        S = S.clone()
        advance(S, torch.matmul(keys.mT, v), keep, group.rounds)
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
        shape = x.log_decay.shape
        self.log_decay = (
            x.q.new_zeros(shape, dtype=scan.dtype) if self.constant else x.log_decay.new_empty(shape)
        )

    def put_log_weight(self, group: Group, value: Tensor) -> None:
        group.put(self.log_weight.unsqueeze(-1), value)

    def put_log_decay(self, group: Group, value: Tensor) -> None:
        if self.scan.vector:
            group.put(self.log_decay, value)
        elif not self.constant:
            group.put(self.log_decay.unsqueeze(-1), value.unsqueeze(-1))
        else:
            if isinstance(self.scan.plan, Packed):
                value = value * group.valid.unsqueeze(1)
            self.log_decay += value.sum((0, 2))


def scan_backward(do: Tensor, dS: Tensor, x: Inputs, words: Words) -> tuple[Tensor | None, ...]:
    """Gradients of q, k, v, log_decay, log_weight, bonus and initial; None for what was not given."""
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
        grads.log_decay.to(x.log_decay.dtype),
        grads.log_weight,
        dbonus,
        dinitial,
    )


def group_backward(scan: Scan, group: Group, S: Tensor, do: Tensor, dS: Tensor, grads: Gradients) -> None:
    """One group's gradients, from the states S (R, H, D, E) before it, which are overwritten; dS of its last
    exits becomes that of its first entries.
    """
    q, (k, v, weight) = scan.queries(group), scan.keys_values(group)
    inside = scan.attention(group, q, k)
    entry = advance(S, torch.matmul(inside.keys.mT, v), inside.keep, group.rounds)
    g = group.load(do, scan.dtype)
    dexit = retreat(dS, torch.matmul(inside.queries.mT, g), inside.keep, group.rounds)
    dweights = torch.matmul(g, v.mT)
    ddiagonal = dweights.diagonal(dim1=-2, dim2=-1).unsqueeze(-1).clone()
    inner = inside.backward(
        dweights,
        torch.matmul(g, entry.mT),
        torch.matmul(v, dexit.mT),
        entry.mul_(dexit).sum(-1, keepdim=True),
    )
    count = scan.add_current(inside.weights, q, k)
    if isinstance(count, Tensor) or count:
        counted = ddiagonal * count
        inner.dq.addcmul_(counted, k)
        inner.dk.addcmul_(counted, q)
    dv = torch.matmul(inside.weights.mT, g)
    dv.flatten(0, 1).baddbmm_(inside.keys.flatten(0, 1), dexit.flatten(0, 1))
    if grads.bonus is not None:
        grads.bonus += (ddiagonal * q).mul_(k).sum((0, 2))
    if weight is not None:
        grads.put_log_weight(group, (inner.dk * k).sum(-1, keepdim=True))
        inner.dk.mul_(weight)
    group.put(grads.q, inner.dq.mul_(scan.words.scale))
    group.put(grads.k, inner.dk)
    group.put(grads.v, dv[..., : grads.v.shape[-1]])
    grads.put_log_decay(group, inner.dlog_decay)
