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

from typing import NamedTuple

import torch
from torch import Tensor

from .exponents import exp_
from .scalar_gates import GateGradients

LEAF = 40.0  # largest |T| of a leaf: e^20 leaves room in float32, and rounding P costs 2e-6


class Spans(NamedTuple):
    """0/1 matrices (C, C): whether the decay of token m (row) is in P of token i, met, and in S of token j,
    left.
    """

    met: Tensor
    left: Tensor


def spans_of(like: Tensor, tokens: int, exclusive: bool) -> Spans:
    ones = like.new_ones(tokens, tokens)
    return Spans(ones.triu(1 if exclusive else 0), ones.tril(-1))


def fits(total: Tensor) -> bool:
    """Whether blocks with these totals can be leaves."""
    low, high = total.aminmax()
    return low.item() >= -LEAF and high.item() <= LEAF


def totals(log_decay: Tensor) -> tuple[list[Tensor], int]:
    """Sums over blocks of 1, 2, 4, ... C tokens, each (p, C / h, D), and the level of the leaves."""
    sums = [log_decay]
    while sums[-1].shape[1] > 1:
        sums.append(sums[-1][:, 0::2] + sums[-1][:, 1::2])
    for level in range(len(sums) - 1, 0, -1):
        if fits(sums[level]):
            return sums, level
    return sums, 0


def by_token(x: Tensor) -> Tensor:
    """(t, H, D, C) -> contiguous (p, C, D), where halves of tokens lie together; a view if it lies so."""
    return x.flatten(0, 1).mT.contiguous()


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


def exits(log_decay: Tensor, k: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """Keys decayed until the tile's exit (t, H, D, C), in place, and e^T (t, H, D, 1)."""
    leaf = leaf_of(log_decay, spans)
    if leaf is not None:
        return k.mul_(leaf.s), leaf.keep
    total = by_token(log_decay)
    s = torch.zeros_like(total)
    h = 1
    while total.shape[1] > 1:
        half(s, h, 0).add_(total[:, 1::2].unsqueeze(2))
        total, h = total[:, 0::2] + total[:, 1::2], 2 * h
    return k.mul_(exp_(s).mT.view_as(k)), exp_(total.view(*k.shape[:3], 1).clone())


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


class Leaf:
    """The decays of tiles that are one leaf, from log decays (t, H, D, C): e^P and e^S; e^T and e^-T
    (t, H, D, 1).
    """

    def __init__(self, log_decay: Tensor, s: Tensor, total: Tensor, spans: Spans) -> None:
        self.spans = spans
        self.p, self.s = torch.matmul(log_decay, spans.met).exp_(), s.exp_()
        self.keep, self.back = total.exp(), total.neg().exp_()


def leaf_of(log_decay: Tensor, spans: Spans) -> Leaf | None:
    """None where the tiles of (t, H, D, C) log decays have to be halved."""
    s = torch.matmul(log_decay, spans.left)  # NaN next to -inf
    total = s[..., :1] + log_decay[..., :1]
    return Leaf(log_decay, s, total, spans) if log_decay.shape[-1] > 1 and fits(total) else None


class Factorised:
    """A tile that is one leaf. A (t, H, C, C) with an empty diagonal; decayed queries and keys
    (t, H, D, C), which take the place of q and k where ``overwrite``: then there is no backward.

    With P + S - T the sum between two tokens, A is the product of e^P q and e^(S - T) k, the latter at most
    e^40 k.
    """

    def __init__(self, leaf: Leaf, q: Tensor, k: Tensor, overwrite: bool) -> None:
        self.leaf, self.keep = leaf, leaf.keep
        mul = torch.Tensor.mul_ if overwrite else torch.mul
        self.queries, self.keys = mul(q, leaf.p), mul(k, leaf.s)
        self.inner = self.keys * leaf.back
        self.weights = torch.matmul(self.queries.mT, self.inner).tril_(-1)

    def backward(self, dweights: Tensor, dqueries: Tensor, dkeys: Tensor, dkeep: Tensor) -> GateGradients:
        """Gradients of A, of decayed queries and keys, and of e^T summed over E: (t, H, D, 1)."""
        leaf = self.leaf
        dweights = dweights.tril_(-1)
        inner = torch.matmul(self.inner, dweights.mT.contiguous())
        dqueries.add_(inner)
        dkeys.addcmul_(torch.matmul(self.queries, dweights), leaf.back)
        # P and S both hold what of T lies outside a pair
        dt = dkeep * self.keep - inner.mul_(self.queries).sum(-1, keepdim=True)
        dlog_decay = torch.matmul(dqueries * self.queries, leaf.spans.met.mT).add_(dt)
        dlog_decay += torch.matmul(dkeys * self.keys, leaf.spans.left.mT)
        return GateGradients(dqueries.mul_(leaf.p), dkeys.mul_(leaf.s), dlog_decay)


class Halved:
    """A tile of several leaves. A (t, H, C, C) with an empty diagonal; decayed queries and keys
    (t, H, D, C). Its own work is done by tokens, (p, C, D) with p = t H.
    """

    def __init__(self, log_decay: Tensor, q: Tensor, k: Tensor, exclusive: bool) -> None:
        tiles, heads, _, tokens = q.shape
        sums, leaf = totals(by_token(log_decay))
        self.tiles, self.exclusive, self.leaf, self.levels = tiles, exclusive, leaf, len(sums) - 1
        q, k = by_token(q), by_token(k)
        p = torch.zeros_like(sums[0]) if exclusive else sums[0].clone()
        s = torch.zeros_like(p)
        weights = q.new_zeros(len(p), tokens, tokens)
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
        self.weights = weights.unflatten(0, (tiles, heads))
        self.queries, self.keys = self._by_channel(self.outside.q), self._by_channel(self.outside.k)
        self.keep = self._by_channel(exp_(sums[-1].clone()))

    def _by_channel(self, x: Tensor) -> Tensor:
        """(p, C, D) -> (t, H, D, C), a view."""
        return x.mT.unflatten(0, (self.tiles, -1))

    def backward(self, dweights: Tensor, dqueries: Tensor, dkeys: Tensor, dkeep: Tensor) -> GateGradients:
        """Gradients of A, of decayed queries and keys, and of e^T summed over E: (t, H, D, 1)."""
        dweights, dqueries, dkeys = dweights.flatten(0, 1), by_token(dqueries), by_token(dkeys)
        dq, dk = dqueries * self.outside.p, dkeys * self.outside.s
        dp, ds = dqueries.mul_(self.outside.q), dkeys.mul_(self.outside.k)
        dt = by_token(dkeep * self.keep)
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
        return GateGradients(*(self._by_channel(x) for x in (dq, dk, dlog_decay)))
