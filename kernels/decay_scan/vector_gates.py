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

from .exponents import exp_
from .scalar_gates import GateGradients

LEAF = 40.0  # largest |T| of a leaf: e^20 leaves room in float32, and rounding P costs 2e-6


def sums_to(log_decay: Tensor, exclusive: bool) -> tuple[Tensor, Tensor]:
    """P and S (p, C, D) of whole tiles of finite log decays, by products with a triangle of ones."""
    tiles, tokens, _ = log_decay.shape
    ones = log_decay.new_ones(tokens, tokens)
    before, after = ones.tril(-1 if exclusive else 0), ones.triu(1)
    return tuple(torch.bmm(x.expand(tiles, -1, -1), log_decay) for x in (before, after))


def fits(total: Tensor) -> bool:
    """Whether blocks with these totals can be leaves."""
    low, high = total.aminmax()
    return bool(low >= -LEAF and high <= LEAF)


def totals(log_decay: Tensor) -> tuple[list[Tensor], int]:
    """Sums over blocks of 1, 2, 4, ... C tokens, each (p, C / h, D), and the level of the leaves."""
    sums = [log_decay]
    while sums[-1].shape[1] > 1:
        sums.append(sums[-1][:, 0::2] + sums[-1][:, 1::2])
    for level in range(len(sums) - 1, 0, -1):
        if fits(sums[level]):
            return sums, level
    return sums, 0


def half(x: Tensor, h: int, side: int) -> Tensor:
    """(p, C, d) -> the left (0) or right (1) halves of its blocks of 2h tokens, (p, C / 2h, h, d); a view."""
    return x.view(x.shape[0], -1, 2, h, x.shape[2]).select(2, side)


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
        half(s, h, 0).add_(total[:, 1::2].unsqueeze(2))
        total, h = total[:, 0::2] + total[:, 1::2], 2 * h
    return k.mul_(exp_(s).view(k.shape)), exp_(total.view(*k.shape[:2], -1, 1).clone())


class Product:
    """a b^T of queries decayed by e^p and keys by e^s, and what its gradient needs; overwrites p and s."""

    def __init__(self, q: Tensor, k: Tensor, p: Tensor, s: Tensor) -> None:
        self.p, self.s = exp_(p), exp_(s)
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


def grow(p: Tensor, s: Tensor, total: Tensor, h: int) -> None:
    """P and S (p, C, D) of blocks of h tokens, which have totals T (p, C / h, D), become those of 2h; in
    place.
    """
    half(p, h, 1).add_(total[:, 0::2].unsqueeze(2))
    half(s, h, 0).add_(total[:, 1::2].unsqueeze(2))


def shrink(dp: Tensor, ds: Tensor, dt: Tensor, h: int) -> Tensor:
    """``grow`` backwards: from the gradient of the totals of 2h tokens, dt (p, C / 2h, D), to that of h."""
    left, right = dt + half(dp, h, 1).sum(2), dt + half(ds, h, 0).sum(2)
    return torch.stack([left, right], 2).flatten(1, 2)


class Factorised:
    """A tile that is one leaf. A (t, H, C, C) with an empty diagonal; decayed queries and keys
    (t, H, C, D).

    With P + S - T the sum between two tokens, A is the product of e^P q and e^(S - T) k, the latter at most
    e^40 k.
    """

    def __init__(self, log_decay: Tensor, total: Tensor, q: Tensor, k: Tensor, exclusive: bool) -> None:
        shape, self.exclusive = q.shape, exclusive
        self.outside = Product(q.flatten(0, 1), k.flatten(0, 1), *sums_to(log_decay, exclusive))
        self.keep = exp_(total.clone())
        self.back = total.neg().exp_()  # e^-T
        self.k = self.outside.k * self.back
        self.weights = torch.bmm(self.outside.q, self.k.mT).tril_(-1).view(*shape[:2], shape[2], shape[2])
        self.queries, self.keys = self.outside.q.view(shape), self.outside.k.view(shape)
        self.keep = self.keep.view(*shape[:2], -1, 1)

    def backward(self, dweights: Tensor, dqueries: Tensor, dkeys: Tensor, dkeep: Tensor) -> GateGradients:
        """Gradients of A, of decayed queries and keys, and of e^T summed over E: (t, H, D, 1)."""
        shape = dqueries.shape
        dweights, dqueries, dkeys = (x.flatten(0, 1) for x in (dweights.tril_(-1), dqueries, dkeys))
        inner = torch.bmm(dweights, self.k)
        dqueries.add_(inner)
        dkeys.addcmul_(torch.bmm(dweights.mT, self.outside.q), self.back)
        # P and S both hold what of T lies outside a pair
        dt = (dkeep * self.keep).view(len(inner), 1, -1)
        dt = dt - inner.mul_(self.outside.q).sum(1, keepdim=True)
        dp, ds = dqueries * self.outside.q, dkeys * self.outside.k
        tiles, tokens, _ = dp.shape
        ones = dp.new_ones(tokens, tokens)
        met, left = ones.triu(1 if self.exclusive else 0), ones.tril(-1)
        dt = torch.baddbmm(dt, met.expand(tiles, -1, -1), dp).baddbmm_(left.expand(tiles, -1, -1), ds)
        dq, dk = dqueries.mul_(self.outside.p), dkeys.mul_(self.outside.s)
        return GateGradients(*(x.view(shape) for x in (dq, dk, dt)))


class Halved:
    """A tile of several leaves. A (t, H, C, C) with an empty diagonal; decayed queries and keys
    (t, H, C, D).
    """

    def __init__(self, sums: list[Tensor], leaf: int, q: Tensor, k: Tensor, exclusive: bool) -> None:
        shape = q.shape
        self.exclusive, self.leaf, self.levels = exclusive, leaf, len(sums) - 1
        q, k = q.flatten(0, 1), k.flatten(0, 1)
        p = torch.zeros_like(sums[0]) if exclusive else sums[0].clone()
        s = torch.zeros_like(p)
        weights = q.new_zeros(len(p), shape[2], shape[2])
        for level in range(leaf):
            grow(p, s, sums[level], 1 << level)
        self.leaves = None
        if leaf:
            h = 1 << leaf
            centre = sums[leaf].unsqueeze(2) / 2
            parts = [x.unflatten(1, (-1, h)) for x in (q, k, p, s)]
            self.leaves = Product(*parts[:2], parts[2] - centre, parts[3] - centre)
            within(weights, h).copy_(self.leaves.scores().tril_(-1))
        self.products: list[Product] = []  # from the leaves up
        for level in range(leaf, self.levels):
            h = 1 << level
            self.products.append(
                Product(half(q, h, 1), half(k, h, 0), half(p, h, 1).clone(), half(s, h, 0).clone())
            )
            across(weights, h).copy_(self.products[-1].scores())
            grow(p, s, sums[level], h)
        self.outside = Product(q, k, p, s)
        self.weights = weights.view(*shape[:2], *weights.shape[1:])
        self.queries, self.keys = self.outside.q.view(shape), self.outside.k.view(shape)
        self.keep = exp_(sums[-1].clone()).view(*shape[:2], -1, 1)

    def backward(self, dweights: Tensor, dqueries: Tensor, dkeys: Tensor, dkeep: Tensor) -> GateGradients:
        """Gradients of A, of decayed queries and keys, and of e^T summed over E: (t, H, D, 1)."""
        shape = dqueries.shape
        dweights, dqueries, dkeys = (x.flatten(0, 1) for x in (dweights, dqueries, dkeys))
        dq, dk = dqueries * self.outside.p, dkeys * self.outside.s
        dp, ds = dqueries.mul_(self.outside.q), dkeys.mul_(self.outside.k)
        dt = (dkeep * self.keep).view(len(dp), 1, -1)
        for level in range(self.levels - 1, self.leaf - 1, -1):
            h = 1 << level
            dt = shrink(dp, ds, dt, h)
            product = self.products[level - self.leaf]
            dright, dleft = product.backward(across(dweights, h), half(dq, h, 1), half(dk, h, 0))
            half(dp, h, 1).add_(dright)
            half(ds, h, 0).add_(dleft)
        if self.leaves is not None:
            h = 1 << self.leaf
            inner = [x.unflatten(1, (-1, h)) for x in (dq, dk, dp, ds)]
            dright, dleft = self.leaves.backward(within(dweights, h).tril(-1), *inner[:2])
            inner[2].add_(dright)
            inner[3].add_(dleft)
            dt = dt - dright.sum(2)  # P and S both hold what of T lies outside a pair
        for level in range(self.leaf - 1, -1, -1):
            dt = shrink(dp, ds, dt, 1 << level)
        dlog_decay = dt if self.exclusive else dt + dp
        return GateGradients(*(x.view(shape) for x in (dq, dk, dlog_decay)))


def vector_attention(log_decay: Tensor, q: Tensor, k: Tensor, exclusive: bool) -> Factorised | Halved:
    """One group's weights, from (t, H, C, D) each, C a power of two."""
    log_decay = log_decay.flatten(0, 1)
    total = log_decay.sum(1, keepdim=True)
    if log_decay.shape[1] > 1 and fits(total):
        return Factorised(log_decay, total, q, k, exclusive)
    return Halved(*totals(log_decay), q, k, exclusive)
