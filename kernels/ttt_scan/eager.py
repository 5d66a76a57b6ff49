"""The scan in plain torch, a group of mini-batches at a time, backward by hand.

Only what W and b need runs one mini-batch after another; what is left (queries, outputs, most gradients) is
done for a whole group at once. Nothing of the inputs' size is kept but results; the backward computes W and b
before every group again. Not twice differentiable. Works on every device, in float32 (float64 for float64).

With x = Z normalised and s its inverse deviation, P_z(y) = s (y - mean y - x mean(y x)) is the derivative of
the normalisation, its own transpose; then G = P_z(g), g = gamma (gamma x + beta - v + k). Backwards, from dG:

    dg = P_z(dG)      dx = gamma^2 dg - s dG mean(g x) - s g mean(dG x)      dZ = P_z(dx) - s x mean(dG G)
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from ..decay_scan.tiles import Group, Packed, Rows, plan


class Inputs(NamedTuple):
    """The tensors of one call; all but q, k and v in the accumulation dtype, W and b one a row or segment."""

    q: Tensor
    k: Tensor
    v: Tensor
    rate: Tensor
    position_rate: Tensor
    W: Tensor
    b: Tensor
    gamma: Tensor
    beta: Tensor
    cu_seqlens: Tensor | None


class Moments(NamedTuple):
    """A normalisation over D: its argument z, the normalised x, and mean and inverse deviation (., 1)."""

    z: Tensor
    x: Tensor
    mean: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, z: Tensor, eps: float) -> "Moments":
        return cls(z, *torch.native_layer_norm(z, z.shape[-1:], None, None, eps))

    def project(self, y: Tensor) -> Tensor:
        """P_z(y)."""
        shape, words = self.z.shape[-1:], [True, False, False]
        return torch.ops.aten.native_layer_norm_backward(
            y, self.z, shape, self.mean, self.inverse, None, None, words
        )[0]


class Batches:
    """The mini-batches of one group, (t, H, C, .) tensors, and the rates that go with them."""

    def __init__(self, scan: "Scan", group: Group) -> None:
        x, dtype = scan.x, scan.dtype
        self.group, self.rounds = group, group.rounds
        self.k, self.v = group.load(x.k, dtype), group.load(x.v, dtype)
        self.rate = group.load(x.rate.unsqueeze(-1), dtype)  # 0 where padded: such tokens teach nothing
        self.position_rate = x.position_rate[: group.length]
        self.is_last = _is_last(group, dtype, x.q.device)  # (t or 1, C)
        self.last_rate = (self.is_last @ self.position_rate).view(-1, 1, 1, 1)
        self.weight = self.rate * self.last_rate  # e_lj (t, H, C, 1)
        self.fixed = scan.gamma * (scan.beta - self.v + self.k)  # the part of g that no state enters


def _is_last(group: Group, dtype: torch.dtype, device: torch.device) -> Tensor:
    """1 at the last token of every mini-batch, else 0."""
    place = torch.arange(group.length, device=device)
    valid = getattr(group, "valid", None)  # rows have no padding
    lengths = place[-1:] + 1 if valid is None else valid.sum(1)
    return (place == lengths.unsqueeze(1) - 1).to(dtype)


class Trace(NamedTuple):
    """What training on a group left behind, (t, H, ...): W and b before every mini-batch, x's moments, G."""

    W: Tensor
    b: Tensor
    moments: Moments
    g: Tensor
    G: Tensor


class Scan:
    """The parameters, the order of the work, and how W and b go through a group."""

    def __init__(self, x: Inputs, size: int, eps: float) -> None:
        self.x, self.eps, self.dtype = x, eps, accumulation_dtype(x.q.dtype)
        self.gamma, self.beta = x.gamma.unsqueeze(1), x.beta.unsqueeze(1)  # (H, 1, D)
        self.gamma_squared = self.gamma.square()
        width = x.q.shape[3]
        width = max(width, size, -(-width * width // size))  # so that W and b fit the budget too
        self.plan: Rows | Packed = plan(x.q, width, size, False, False, x.cu_seqlens)

    def states(self, W: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Copies in the plan's order; b (R, H, 1, D)."""
        order = self.plan.order
        if order is None:
            return W.clone(memory_format=torch.contiguous_format), b.unsqueeze(2).clone(
                memory_format=torch.contiguous_format
            )
        return W[order], b[order].unsqueeze(2)

    def restored(self, W: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Back from the plan's order."""
        b, order = b.squeeze(2), self.plan.order
        if order is None:
            return W, b
        return tuple(torch.empty_like(x).index_copy_(0, order, x) for x in (W, b))

    def train(self, batches: Batches, W: Tensor, b: Tensor) -> Trace:
        """W (R, H, D, D) and b (R, H, 1, D) through the group's mini-batches, in place."""
        parts = zip(
            *(x.split(batches.rounds) for x in (batches.k, batches.fixed, batches.weight)), strict=True
        )
        kept: list[tuple[Tensor, ...]] = []
        for k, fixed, weight in parts:
            n = len(k)
            moments = Moments.of(torch.matmul(k, W[:n]).add_(b[:n]), self.eps)
            g = torch.addcmul(fixed, self.gamma_squared, moments.x)
            G = moments.project(g)
            kept.append((W[:n].clone(), b[:n].clone(), *moments, g, G))
            step = G * weight
            W[:n].sub_(torch.matmul(k.mT, step))
            b[:n].sub_(step.sum(2, keepdim=True))
        W, b, *moments, g, G = (torch.cat(x) for x in zip(*kept, strict=True))
        return Trace(W, b, Moments(*moments), g, G)

    def read(self, batches: Batches, q: Tensor, trace: Trace) -> tuple[Tensor, Tensor, Moments]:
        """q . k + 1 (t, H, C, C), e times that for j <= i, and the moments of what is read."""
        scores = torch.matmul(q, batches.k.mT).add_(1)
        mixing = (scores * batches.position_rate.unsqueeze(1)).mul_(batches.rate.mT).tril_()
        z = torch.matmul(q, trace.W).add_(trace.b).sub_(torch.matmul(mixing, trace.G))
        return scores, mixing, Moments.of(z, self.eps)


def scan_forward(x: Inputs, size: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    scan = Scan(x, size, eps)
    o = torch.empty(x.q.shape, dtype=x.q.dtype, device=x.q.device)
    W, b = scan.states(x.W, x.b)
    for sweep in scan.plan:
        for group in sweep.groups:
            batches, q = Batches(scan, group), group.load(x.q, scan.dtype)
            trace = scan.train(batches, W[sweep.states], b[sweep.states])
            *_, moments = scan.read(batches, q, trace)
            group.put(o, torch.addcmul(q + scan.beta, scan.gamma, moments.x))
    return o, *scan.restored(W, b)


class Gradients:
    """Where a backward gathers its results, in the order of ``Inputs``."""

    def __init__(self, x: Inputs, dtype: torch.dtype) -> None:
        self.q, self.k, self.v = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in x[:3])
        self.rate = torch.empty(x.rate.shape, dtype=dtype, device=x.rate.device)
        self.position_rate, self.gamma, self.beta = (
            torch.zeros_like(t) for t in (x.position_rate, x.gamma, x.beta)
        )


def scan_backward(do: Tensor, dW: Tensor, db: Tensor, x: Inputs, size: int, eps: float) -> tuple[Tensor, ...]:
    """Gradients of the tensors of ``Inputs``, in that order."""
    scan = Scan(x, size, eps)
    grads = Gradients(x, scan.dtype)
    (W, b), (dW, db) = scan.states(x.W, x.b), scan.states(dW, db)
    for sweep in scan.plan:
        own = sweep.states
        found = [(W[own].clone(), b[own].clone())]
        for group in sweep.groups[:-1]:
            scan.train(Batches(scan, group), W[own], b[own])
            found.append((W[own].clone(), b[own].clone()))
        for group in reversed(sweep.groups):
            group_backward(scan, group, found.pop(), do, (dW[own], db[own]), grads)
    dW, db = scan.restored(dW, db)
    return grads.q, grads.k, grads.v, grads.rate, grads.position_rate, dW, db, grads.gamma, grads.beta


def group_backward(
    scan: Scan,
    group: Group,
    state: tuple[Tensor, Tensor],
    do: Tensor,
    dstate: tuple[Tensor, Tensor],
    grads: Gradients,
) -> None:
    """One group's gradients, from W and b before it, which are overwritten; ``dstate``, the gradients of W
    and b after it, become those of W and b before it.
    """
    batches, q = Batches(scan, group), group.load(scan.x.q, scan.dtype)
    do = group.load(do, scan.dtype)
    trace = scan.train(batches, *state)
    scores, mixing, read = scan.read(batches, q, trace)
    dz = read.project(do * scan.gamma)
    grads.gamma += (do * read.x).sum((0, 2))
    grads.beta += do.sum((0, 2))
    dmixing = torch.matmul(dz, trace.G.mT).neg_().tril_()
    into = (torch.matmul(mixing.mT, dz).neg_(), torch.matmul(q.mT, dz), dz.sum(2, keepdim=True))
    learned = train_backward(scan, batches, trace, into, *dstate)
    taught = (learned.dstep * trace.G).sum(-1, keepdim=True)
    _put_rates(group, batches, scores * dmixing, taught, grads)
    dscores = dmixing.mul_(batches.position_rate.unsqueeze(1)).mul_(batches.rate.mT)
    dq = torch.matmul(dz, trace.W.mT).add_(do).add_(torch.matmul(dscores, batches.k))
    dk = torch.matmul(dscores.mT, q).add_(torch.matmul(learned.dz, trace.W.mT))
    dk.sub_(torch.matmul(trace.G * batches.weight, learned.dW.mT))
    derror = learned.dg * scan.gamma
    grads.beta += derror.sum((0, 2))
    error = (trace.moments.x * scan.gamma).add_(scan.beta).sub_(batches.v).add_(batches.k)
    grads.gamma += (learned.dg * error).add_(derror * trace.moments.x).sum((0, 2))
    group.put(grads.q, dq)
    group.put(grads.k, dk.add_(derror))
    group.put(grads.v, derror.neg_())


class Learned(NamedTuple):
    """Of every mini-batch of a group: gradients of W after it, of its step e_lj G_j, of g and of Z."""

    dW: Tensor
    dstep: Tensor
    dg: Tensor
    dz: Tensor


def train_backward(
    scan: Scan, batches: Batches, trace: Trace, into: tuple[Tensor, Tensor, Tensor], dW: Tensor, db: Tensor
) -> Learned:
    """``Scan.train`` backwards, from the gradients that queries send ``into`` G, W and b; dW (R, H, D, D) and
    db (R, H, 1, D) in place.
    """
    x, inverse = trace.moments.x, trace.moments.inverse
    tied = (trace.g * x).mean(-1, keepdim=True).mul_(inverse)  # s mean(g x)
    tensors = (batches.k, batches.weight, *into, *trace.moments, trace.g, trace.G, tied, inverse * x)
    parts = list(zip(*(t.split(batches.rounds) for t in tensors), strict=True))
    kept: list[tuple[Tensor, ...]] = []
    for k, weight, dG, dW_read, db_read, *moments, g, G, own_tied, scaled in reversed(parts):
        n, moments = len(k), Moments(*moments)
        dstep = torch.matmul(k, dW[:n]).add_(db[:n]).neg_()
        dG = torch.addcmul(dG, dstep, weight)
        dg = moments.project(dG)
        dx = (dg * scan.gamma_squared).sub_(dG * own_tied)
        dx.sub_(g * (dG * scaled).mean(-1, keepdim=True))
        dz = moments.project(dx).sub_(scaled * (dG * G).mean(-1, keepdim=True))
        kept.append((dW[:n].clone(), dstep, dg, dz))
        dW[:n].add_(dW_read).add_(torch.matmul(k.mT, dz))
        db[:n].add_(db_read).add_(dz.sum(2, keepdim=True))
    return Learned(*(torch.cat(x) for x in zip(*reversed(kept), strict=True)))


def _put_rates(group: Group, batches: Batches, products: Tensor, taught: Tensor, grads: Gradients) -> None:
    """From the gradients of e_ij times e_ij / rates: ``products`` (t, H, C, C) of reading, ``taught``
    (t, H, C, 1) of the steps.
    """
    drate = torch.matmul(batches.position_rate, products).unsqueeze(-1)
    group.put(grads.rate.unsqueeze(-1), drate.add_(taught * batches.last_rate))
    dposition = torch.matmul(products, batches.rate).sum((0, 1)).squeeze(-1)
    dlast = (taught * batches.rate).sum((1, 2))
    grads.position_rate[: group.length] += dposition + (batches.is_last * dlast).sum(0)
