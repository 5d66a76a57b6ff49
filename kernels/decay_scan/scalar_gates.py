"""Decays that all key channels share: one matrix of token-to-token decays a tile.

With G_ij the sum of the log decays that token j's key has met when token i reads it (j < i), the weights of a
tile are A = (q k^T) * e^G. Sums are taken in float64: they are few, and their differences must keep digits.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .exponents import exp_

LEAST = -800.0  # e^-800 is 0 in float64 too; differences of infinities would be NaN


class ScalarGates:
    """Of (t, H, C) log decays; t = 1 where all tiles share them. ``current`` is the current token's weight.

    queries, keys: e^P (t, H, 1, C) of what has decayed a tile's entry state when token i reads it, and e^S of
    what decays token j's key until the tile's exit.  keep: e^T (t, H, 1, 1), entry to exit.
    """

    def __init__(
        self, log_decay: Tensor, exclusive: bool, symmetric: bool, current: float, dtype: torch.dtype
    ) -> None:
        g = log_decay.double().clamp(min=LEAST)
        b = g.cumsum(-1)
        met = b - g if exclusive else b
        weights = exp_((met.unsqueeze(-1) - b.unsqueeze(-2)).to(dtype)).tril_(-1)
        self.weights = weights + weights.mT if symmetric else weights
        self.weights.diagonal(dim1=-2, dim2=-1).fill_(current)
        self.queries = exp_(met.to(dtype, copy=True)).unsqueeze(-2)
        self.keys = exp_((b[..., -1:] - b).to(dtype)).unsqueeze(-2)
        self.keep = exp_(b[..., -1:].to(dtype, copy=True)).unsqueeze(-1)
        self.exclusive, self.symmetric = exclusive, symmetric


class GateGradients(NamedTuple):
    """dq, dk (t, H, D, C) and the log decays': (t, H, C), t = 1 where tiles share them, or (t, H, D, C)."""

    dq: Tensor
    dk: Tensor
    dlog_decay: Tensor | None


class ScalarAttention:
    """One group's weights: A (t, H, C, C), decayed queries and keys (t, H, D, C); these take the place of q
    and k where ``overwrite``, after which there is no backward.
    """

    def __init__(self, gates: ScalarGates, q: Tensor, k: Tensor, overwrite: bool) -> None:
        self.gates, self.q, self.k = gates, q, k
        self.keep = gates.keep
        self.weights = torch.matmul(q.mT, k).mul_(gates.weights)
        mul = torch.Tensor.mul_ if overwrite else torch.mul
        self.queries, self.keys = mul(q, gates.queries), mul(k, gates.keys)

    def backward(
        self, dweights: Tensor, dqueries: Tensor, dkeys: Tensor, dkeep: Tensor | None
    ) -> GateGradients:
        """Gradients of A, of decayed queries and keys, and of e^T summed over E: (t, H, D, 1); without the
        last, log decays get none.
        """
        gates = self.gates
        dlog_decay = None if dkeep is None else self._dlog_decay(dweights, dqueries, dkeys, dkeep)
        dscores = dweights.mul_(gates.weights)
        dq = torch.matmul(self.k, dscores.mT.contiguous()).addcmul_(dqueries, gates.queries)
        dk = torch.matmul(self.q, dscores).addcmul_(dkeys, gates.keys)
        return GateGradients(dq, dk, dlog_decay)

    def _dlog_decay(self, dweights: Tensor, dqueries: Tensor, dkeys: Tensor, dkeep: Tensor) -> Tensor:
        """Log decay t is met by pairs j < t <= i (t < i when exclusive), by reads of the entry state from t
        on, by keys before t until the exit, and by the state. Nothing is subtracted.
        """
        gates = self.gates
        pairs = dweights * self.weights
        read, kept = (dqueries * self.queries).sum(-2), (dkeys * self.keys).sum(-2)
        total = dkeep.sum((-2, -1)).unsqueeze(-1) * gates.keep.squeeze(-1)
        if gates.weights.shape[0] == 1:
            pairs, read, kept, total = (x.sum(0, keepdim=True) for x in (pairs, read, kept, total))
        if gates.symmetric:
            pairs = pairs + pairs.mT
        ones = torch.ones(pairs.shape[-2:], dtype=pairs.dtype, device=pairs.device)
        later = ones.triu(1 if gates.exclusive else 0)
        before = ones.tril(-1)
        across = (torch.matmul(later, pairs) * before).sum(-1)
        return (
            across
            + torch.matmul(later, read.unsqueeze(-1)).squeeze(-1)
            + torch.matmul(before, kept.unsqueeze(-1)).squeeze(-1)
            + total
        )
