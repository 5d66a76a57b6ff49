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

    queries, keys: e^P (t, H, C, 1) of what has decayed a tile's entry state when token i reads it, and e^S of
    what decays token j's key until the tile's exit.  keep: e^T (t, H, 1, 1), entry to exit.
    """

    def __init__(
        self, log_decay: Tensor, exclusive: bool, symmetric: bool, current: float, dtype: torch.dtype
    ) -> None:
        g = log_decay.double().clamp(min=LEAST)
        b = g.cumsum(-1)
        met = b - g if exclusive else b
        between = (met.unsqueeze(-1) - b.unsqueeze(-2)).to(dtype)
        upper = torch.ones(between.shape[-2:], dtype=torch.bool, device=g.device).triu_()
        weights = exp_(between.masked_fill_(upper, -torch.inf))
        self.weights = weights + weights.mT if symmetric else weights
        self.weights.diagonal(dim1=-2, dim2=-1).fill_(current)
        self.queries = exp_(met.to(dtype, copy=True)).unsqueeze(-1)
        self.keys = exp_((b[..., -1:] - b).to(dtype)).unsqueeze(-1)
        self.keep = exp_(b[..., -1:].to(dtype, copy=True)).unsqueeze(-1)
        self.exclusive, self.symmetric = exclusive, symmetric

    def attention(self, q: Tensor, k: Tensor) -> "ScalarAttention":
        return ScalarAttention(self, q, k)


class GateGradients(NamedTuple):
    """dq, dk (t, H, C, D) and the log decays' (t, H, C) or (t, H, C, D); t = 1 where tiles share them."""

    dq: Tensor
    dk: Tensor
    dlog_decay: Tensor


class ScalarAttention:
    """One group's weights: A (t, H, C, C), decayed queries and keys (t, H, C, D)."""

    def __init__(self, gates: ScalarGates, q: Tensor, k: Tensor) -> None:
        self.gates, self.q, self.k = gates, q, k
        self.keep = gates.keep
        self.queries, self.keys = q * gates.queries, k * gates.keys
        self.weights = torch.matmul(q, k.mT).mul_(gates.weights)

    def backward(self, dweights: Tensor, dqueries: Tensor, dkeys: Tensor, dkeep: Tensor) -> GateGradients:
        """Gradients of A, of decayed queries and keys, and of e^T summed over E: (t, H, D, 1)."""
        gates = self.gates
        pairs = dweights * self.weights
        dscores = dweights.mul_(gates.weights)
        dq = torch.matmul(dscores, self.k).addcmul_(dqueries, gates.queries)
        dk = torch.matmul(dscores.mT, self.q).addcmul_(dkeys, gates.keys)
        read, kept = (dqueries * self.queries).sum(-1), (dkeys * self.keys).sum(-1)
        total = dkeep.sum((-2, -1)).unsqueeze(-1) * gates.keep.squeeze(-1)
        if gates.weights.shape[0] == 1:
            pairs, read, kept, total = (x.sum(0, keepdim=True) for x in (pairs, read, kept, total))
        return GateGradients(dq, dk, self._dlog_decay(pairs, read, kept, total))

    def _dlog_decay(self, pairs: Tensor, read: Tensor, kept: Tensor, total: Tensor) -> Tensor:
        """Log decay t is met by pairs j < t <= i (t < i when exclusive), by reads of the entry state from t
        on, by keys before t until the exit, and by the state. Nothing is subtracted.
        """
        if self.gates.symmetric:
            pairs = pairs + pairs.mT
        ones = torch.ones(pairs.shape[-2:], dtype=pairs.dtype, device=pairs.device)
        later = ones.triu(1 if self.gates.exclusive else 0)
        before = ones.tril(-1)
        across = (torch.matmul(later, pairs) * before).sum(-1)
        return (
            across
            + torch.matmul(later, read.unsqueeze(-1)).squeeze(-1)
            + torch.matmul(before, kept.unsqueeze(-1)).squeeze(-1)
            + total
        )
