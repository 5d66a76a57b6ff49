"""One call of the eager scan: what it was given, and what a group of its tiles holds.

Queries and keys are held by channel, (t, H, D, C): of a product of small matrices the second factor is then
never a transposed one, which on a CPU takes twice the time.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from .scalar_gates import ScalarAttention, ScalarGates
from .tiles import Group, Packed, Rows, plan
from .vector_gates import Factorised, Halved, Spans, exits, leaf_of, spans_of

Attention = ScalarAttention | Factorised | Halved

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
    """The rest; ``count`` gives v a last column of ones, symmetric_block 0 means none; ``decay_gradient`` is
    whether the backward is to have that of log_decay.
    """

    symmetric_block: int
    exclusive: bool
    count: bool
    scale: float
    reverse: bool
    chunk: int
    decay_gradient: bool = True


class Scan:
    """The tiles, and what a group of them holds."""

    def __init__(self, x: Inputs, words: Words) -> None:
        self.x, self.words, self.dtype = x, words, accumulation_dtype(x.q.dtype)
        self.key_dim, self.value_dim = x.q.shape[3], x.v.shape[3] + words.count
        self.vector = x.log_decay.dim() == 4
        chunk = words.symmetric_block or min(words.chunk, self.longest())
        width = max(self.key_dim, self.value_dim, min(chunk, x.q.shape[1]))
        if self.vector:  # decays per channel are as large as q, and more than one of their size lives
            width *= 2
        self.plan: Rows | Packed = plan(x.q, width, chunk, words.reverse, self.vector, x.cu_seqlens)
        self.shared: dict[int, Any] = {}  # by the tiles' length: gates of constant decay, or spans

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
        if self.plan.order is None:
            return given.clone(memory_format=torch.contiguous_format)
        return given[self.plan.order]

    def restored(self, states: Tensor) -> Tensor:
        """Back from the plan's order."""
        if self.plan.order is None:
            return states
        return torch.empty_like(states).index_copy_(0, self.plan.order, states)

    def queries(self, group: Group, by_channel: bool = True) -> Tensor:
        """(t, H, D, C); in memory by tokens unless ``by_channel``: faster to load, slower in sums with k."""
        q = self._load(group, self.x.q, by_channel)
        return q if self.words.scale == 1 else q.mul_(self.words.scale)

    def keys(self, group: Group, by_channel: bool = True) -> Tensor:
        """k with its weight (t, H, D, C), in memory as q is."""
        k = self._load(group, self.x.k, by_channel)
        return k if self.x.log_weight is None else k.mul_(self.weight(group))

    def weight(self, group: Group) -> Tensor:
        """(t, H, 1, C)"""
        return group.load(self.x.log_weight.unsqueeze(-1), self.dtype, by_channel=True).exp_()

    def values(self, group: Group, by_channel: bool = False) -> Tensor:
        """v with its column of ones (t, H, C, E), ``by_channel`` (t, H, E, C)."""
        v = group.load(self.x.v, self.dtype, by_channel)
        if not self.words.count:
            return v
        return torch.nn.functional.pad(v, (0, 0, 0, 1) if by_channel else (0, 1), value=1.0)

    def attention(self, group: Group, overwrite: bool = False) -> tuple[Attention, Tensor, Tensor]:
        """The group's weights, current tokens among them, and its q and k: the decayed ones if ``overwrite``.

        Decays come first, so that q and k are still in the cache when they meet.
        """
        if not self.vector:
            gates = self.gates(group)
            # the backward sums products of q and gradients, which lie by channel
            q, k = self.queries(group, by_channel=not overwrite), self.keys(group)
            diagonal = self.diagonal(q, k)
            inside = ScalarAttention(gates, q, k, overwrite)
        else:
            leaf = leaf_of(self.log_decay(group), self.spans(group))
            factored = leaf is not None
            q, k = self.queries(group, by_channel=factored), self.keys(group, by_channel=factored)
            diagonal = self.diagonal(q, k)
            if factored:
                inside = Factorised(leaf, q, k, overwrite)
            else:
                inside = Halved(self.log_decay(group, by_channel=False), q, k, self.words.exclusive)
        if diagonal is not None:
            inside.weights.diagonal(dim1=-2, dim2=-1).add_(diagonal)
        return inside, q, k

    def exits(self, group: Group, k: Tensor) -> tuple[Tensor, Tensor]:
        """Decayed keys and ``keep``: all that states need."""
        if self.vector:
            return exits(self.log_decay(group), k, self.spans(group))
        gates = self.gates(group)
        return k.mul_(gates.keys), gates.keep

    def log_decay(self, group: Group, by_channel: bool = True) -> Tensor:
        """One per channel: (t, H, D, C), in memory as q is."""
        return self._load(group, self.x.log_decay, by_channel)

    def _load(self, group: Group, x: Tensor, by_channel: bool) -> Tensor:
        loaded = group.load(x, self.dtype, by_channel)
        return loaded if by_channel else loaded.mT

    def spans(self, group: Group) -> Spans:
        if group.length not in self.shared:
            like = self.x.q.new_empty(0, dtype=self.dtype)
            self.shared[group.length] = spans_of(like, group.length, self.words.exclusive)
        return self.shared[group.length]

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

    def current(self) -> Tensor | float | None:
        """What the current token's weight is beyond A: a bonus (H, D, 1), 1, or None where A has it."""
        if self.x.bonus is not None:
            return self.x.bonus.to(self.dtype).unsqueeze(-1)
        return 1.0 if self.vector and not self.words.exclusive else None

    def diagonal(self, q: Tensor, k: Tensor) -> Tensor | None:
        """What that adds to the diagonal of A (t, H, C)."""
        count = self.current()
        if count is None:
            return None
        return ((q * count).mul_(k) if isinstance(count, Tensor) else q * k).sum(-2)
