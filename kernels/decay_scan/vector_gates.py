"""Decays per key channel, by halves: every exponent is a sum of log decays, none a difference.

A tile of C = 2^n tokens is halved again and again. Across the middle of a block of 2h tokens, token i in the
right half meets token j in the left one with e^{P_i + S_j}: P the log decays from the middle to i, S those
from j to the middle. That is one matrix product a level. For the next level P grows by the left half's
total T in right halves, S by the right half's in left halves; after the last, P, S and T are the tile's own.

Blocks small enough that T stays above -40 (leaves) need no halving: there e^{P_i - T/2} and e^{S_j - T/2} are
within range, and their product over pairs j < i is the decay between them. If a whole tile is such a
leaf this is the usual factorised form; under strong decay leaves shrink to single tokens, which need no
exponent at all. So nothing overflows, and no pair loses digits to decays outside it.
"""

import torch
from torch import Tensor

from .scalar_gates import GateGradients

LEAF = 40.0  # largest |T| of a leaf: e^20 leaves room in float32, and rounding P costs 2e-6


def totals(log_decay: Tensor) -> tuple[list[Tensor], int]:
    """Sums over blocks of 1, 2, 4, ... C tokens, each (p, C / h, D), and the level of the leaves."""
    sums = [log_decay]
    while sums[-1].shape[1] > 1:
        pairs = sums[-1].unflatten(1, (-1, 2))
        sums.append(pairs[:, :, 0] + pairs[:, :, 1])
    for level in range(len(sums) - 1, 0, -1):
        low, high = sums[level].aminmax()
        if low >= -LEAF and high <= LEAF:
            return sums, level
    return sums, 0


def halves(x: Tensor, h: int) -> tuple[Tensor, Tensor]:
    """(p, C, d) -> left and right halves of its blocks of 2h tokens, each (p, C / 2h, h, d); views."""
    left, right = x.unflatten(1, (-1, 2, h)).unbind(2)
    return left, right


def across(weights: Tensor, h: int) -> Tensor:
    """(p, C, C) -> (p, C / 2h, h, h): right halves' tokens by left halves'; a view."""
    p, c = weights.shape[:2]
    blocks = weights.view(p, c // (2 * h), 2 * h, c // (2 * h), 2 * h).diagonal(dim1=1, dim2=3)
    return blocks[:, h:, :h].permute(0, 3, 1, 2)


def within(weights: Tensor, size: int) -> Tensor:
    """(p, C, C) -> (p, C / L, L, L): the blocks on the diagonal; a view."""
    p, c = weights.shape[:2]
    return weights.view(p, c // size, size, c // size, size).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)


def exits(log_decay: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Keys decayed until the tile's exit (t, H, C, D), in place, and e^T (t, H, D, 1)."""
    total = log_decay.flatten(0, 1)
    s = torch.zeros_like(total)
    h = 1
    while total.shape[1] > 1:
        first, second = halves(total, 1)
        left, _ = halves(s, h)
        left += second
        total, h = (first + second).squeeze(2), 2 * h
    return k.mul_(s.exp_().view(k.shape)), total.view(*k.shape[:2], -1, 1).exp()


class Product:
    """a b^T of decayed queries and keys, and what its gradient needs."""

    def __init__(self, q: Tensor, k: Tensor, p: Tensor, s: Tensor) -> None:
        self.p, self.s = p.exp(), s.exp()
        self.q, self.k = q * self.p, k * self.s

    def scores(self) -> Tensor:
        if self.q.shape[2] == 1:
            return (self.q * self.k).sum(-1, keepdim=True)
        return torch.matmul(self.q, self.k.mT)

    def backward(self, dscores: Tensor, dq: Tensor, dk: Tensor) -> tuple[Tensor, Tensor]:
        """Adds to dq and dk; returns the gradients of p and s."""
        dscores = dscores.contiguous()
        if self.q.shape[2] == 1:
            dqueries, dkeys = dscores * self.k, dscores * self.q
        else:
            dqueries, dkeys = torch.matmul(dscores, self.k), torch.matmul(dscores.mT, self.q)
        dq.addcmul_(dqueries, self.p)
        dk.addcmul_(dkeys, self.s)
        return dqueries.mul_(self.q), dkeys.mul_(self.k)


class VectorAttention:
    """One group's weights: A (t, H, C, C) with an empty diagonal; decayed queries and keys (t, H, C, D)."""

    def __init__(self, log_decay: Tensor, q: Tensor, k: Tensor, exclusive: bool) -> None:
        shape = q.shape
        self.exclusive, self.q, self.k = exclusive, q.flatten(0, 1), k.flatten(0, 1)
        sums, self.leaf = totals(log_decay.flatten(0, 1))
        self.levels = len(sums) - 1
        p = torch.zeros_like(sums[0]) if exclusive else sums[0].clone()
        s = torch.zeros_like(p)
        weights = q.new_zeros(len(p), shape[2], shape[2])
        self.products: list[Product | None] = []
        self.inside = None
        for level in range(self.levels + 1):
            h = 1 << level
            if level == self.leaf and level > 0:
                self.inside = self._leaf(p, s, sums[level], h)
                within(weights, h).copy_(self.inside.scores().tril_(-1))
            if level == self.levels:
                break
            (_, right), (left, _) = halves(p, h), halves(s, h)
            self.products.append(self._across(right, left, h) if level >= self.leaf else None)
            if self.products[-1] is not None:
                across(weights, h).copy_(self.products[-1].scores())
            totals_left, totals_right = halves(sums[level], 1)
            right += totals_left
            left += totals_right
        self.outside = Product(self.q, self.k, p, s)
        self.weights = weights.view(*shape[:2], *weights.shape[1:])
        self.queries, self.keys = (x.view(shape) for x in (self.outside.q, self.outside.k))
        self.keep = sums[-1].view(*shape[:2], -1, 1).exp()

    def _leaf(self, p: Tensor, s: Tensor, total: Tensor, h: int) -> Product:
        half = total.unsqueeze(2) / 2
        q, k, p, s = (x.unflatten(1, (-1, h)) for x in (self.q, self.k, p, s))
        return Product(q, k, p - half, s - half)

    def _across(self, right: Tensor, left: Tensor, h: int) -> Product:
        return Product(halves(self.q, h)[1], halves(self.k, h)[0], right, left)

    def backward(self, dweights: Tensor, dqueries: Tensor, dkeys: Tensor, dkeep: Tensor) -> GateGradients:
        """Gradients of A, of decayed queries and keys, and of e^T summed over E: (t, H, D, 1)."""
        shape = dqueries.shape
        dweights, dqueries, dkeys = (x.flatten(0, 1) for x in (dweights, dqueries, dkeys))
        dq, dk = dqueries * self.outside.p, dkeys * self.outside.s
        dp, ds = dqueries * self.outside.q, dkeys * self.outside.k
        dt = (dkeep * self.keep).view(len(dp), 1, -1)
        for level in range(self.levels, -1, -1):
            h = 1 << level
            if level == self.leaf and level > 0:
                own = self.inside.backward(
                    within(dweights, h).tril(-1), *(x.unflatten(1, (-1, h)) for x in (dq, dk))
                )
                dp += own[0].flatten(1, 2)
                ds += own[1].flatten(1, 2)
                dt = dt - own[0].sum(2)  # P and S both hold what of T lies outside a pair
            if level == 0:
                break
            h //= 2
            (_, right), (left, _) = halves(dp, h), halves(ds, h)
            dt = torch.stack([dt + right.sum(2), dt + left.sum(2)], 2).flatten(1, 2)
            if self.products[level - 1] is not None:
                own = self.products[level - 1].backward(
                    across(dweights, h), halves(dq, h)[1], halves(dk, h)[0]
                )
                right += own[0]
                left += own[1]
        if not self.exclusive:
            dt = dt + dp
        return GateGradients(dq.view(shape), dk.view(shape), dt.view(shape))
