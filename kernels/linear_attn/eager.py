"""Linear attention in plain torch, one cache-sized block of tokens at a time, backward by hand.

Forward and backward keep no tensor of the inputs' size but their results; the backward computes the features
again from k and q. Not twice differentiable. Works on every device; sums and states in float32 (float64 for
float64). Equations in README.md; letters: f = phi(q), p = w phi(k), R the rotation, u, z, alpha, beta as in
``norms``.
"""

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from .blocks import RowBlock, Scratch, TileBlock, plan
from .norms import alpha_beta, slopes, state_terms

Block = RowBlock | TileBlock


def features(
    x: Tensor,
    block: Block,
    feature: str,
    scratch: Scratch,
    name: str,
    slope: bool = False,
    cleared: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """phi of the block of ``x`` as contiguous (t, h, T, D), and phi' when asked for (None: it is 1)."""
    copied = block.copies or x.dtype != scratch.dtype or feature == "identity"
    view = block.load(x, scratch, name, cleared) if copied else block.tokens(x)
    if feature == "identity":
        return view, None
    phi = view if copied else scratch.take_like_tokens(name, *view.shape)
    take = scratch.take if phi.is_contiguous() else scratch.take_like_tokens
    if feature == "relu":
        above = torch.gt(view, 0, out=take("spare", *view.shape)) if slope else None
        return torch.clamp(view, min=0, out=phi), above
    above = torch.clamp(view, min=0, out=take("spare", *view.shape))
    below = torch.clamp(view, max=0, out=phi).exp_()
    if slope:
        return above.add_(below), below
    return below.add_(above), None


def rotated(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor, back: bool = False) -> Tensor:
    """R x into ``out``, or R^T x: pairs (2j, 2j + 1) of the last axis turned by the tables."""
    torch.mul(x, cos, out=out)
    even, odd = (slice(0, None, 2), slice(1, None, 2))
    to_even, to_odd = (sin[..., odd], sin[..., even]) if back else (sin[..., even], sin[..., odd])
    sign = 1 if back else -1
    out[..., even].addcmul_(x[..., odd], to_even, value=sign)
    out[..., odd].addcmul_(x[..., even], to_odd, value=-sign)
    return out


def keys(
    k: Tensor, weight: Tensor | None, block: Block, feature: str, scratch: Scratch, slope: bool = False
) -> tuple[Tensor, Tensor | None]:
    """p = w phi(k), 0 for dropped tokens, and phi'(k)."""
    p, phi_slope = features(k, block, feature, scratch, "key", slope)
    if weight is not None:
        p.mul_(block.tokens(weight))
    if weight is not None or feature == "elu1":  # the others map 0 to 0
        block.clear(p)
    return p, phi_slope


def reduce_forward(
    k: Tensor,
    v: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    cu_seqlens: Tensor | None,
    feature: str,
    centered: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    heads, key_dim, value_dim = k.shape[2], k.shape[3], v.shape[3]
    acc = accumulation_dtype(k.dtype)
    weight = None if weight is None else weight.unsqueeze(-1)
    blocks, scratch = plan(k, max(key_dim, value_dim), mask, cu_seqlens), Scratch(k, acc)
    S, s, m = (
        torch.zeros(blocks.states, heads, *dims, device=k.device, dtype=acc)
        for dims in ((key_dim, value_dim), (key_dim,), (value_dim,))
    )
    n = blocks.counts(k.device)
    means = None
    if centered:  # a first pass for the means; the plain sum of products loses digits to an offset
        for block in blocks:
            block.add(s, keys(k, weight, block, feature, scratch)[0].sum(2))
            block.add(m, block.load(v, scratch, "value").sum(2))
        means = state_means(s, m, n)
    for block in blocks:
        p = keys(k, weight, block, feature, scratch)[0]
        value = block.load(v, scratch, "value")
        if means is None:
            block.add(s, p.sum(2))
            block.add(m, value.sum(2))
        else:
            shift_(p, means[0], block), shift_(value, means[1], block)
        if cos is not None:
            p = rotated(p, block.table(cos), block.table(sin), scratch.take_like_tokens("turned", *p.shape))
        block.add_product(S, p.flatten(0, 1), value.flatten(0, 1))
    return S, s, m, n


def state_means(s: Tensor, m: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    count = n.clamp(min=1).to(s.dtype)[:, None, None]
    return s / count, m / count


def shift_(x: Tensor, mean: Tensor, block: Block) -> Tensor:
    """Takes its state's mean from every token of the block; dropped tokens stay 0."""
    x.flatten(0, 1).sub_(block.state(mean).unsqueeze(1))
    return block.clear(x)


def reduce_backward(
    dS: Tensor,
    ds: Tensor,
    dm: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    cu_seqlens: Tensor | None,
    s: Tensor,
    m: Tensor,
    n: Tensor,
    feature: str,
    centered: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """dp = R^T (dS v) + ds, dv = dS^T (R p) + dm; p and v about their means when centred (the means' own
    terms cancel).
    """
    blocks, scratch = plan(k, max(k.shape[3], v.shape[3]), mask, cu_seqlens), Scratch(k, dS.dtype)
    dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (k, v))
    weight = None if weight is None else weight.unsqueeze(-1)
    dweight = None if weight is None else torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    means = state_means(s, m, n) if centered else None
    for block in blocks:
        p, slope = keys(k, None, block, feature, scratch, slope=True)
        value = block.load(v, scratch, "value")
        if means is not None:
            shift_(value, means[1], block)
        dS_block = block.state(dS)
        dp = scratch.take("dp", *p.shape)
        torch.bmm(value.flatten(0, 1), dS_block.mT, out=dp.flatten(0, 1))
        if cos is not None:
            dp = rotated(
                dp, block.table(cos), block.table(sin), scratch.take("turned_back", *p.shape), back=True
            )
        dp.flatten(0, 1).add_(block.state(ds).unsqueeze(1))
        if weight is not None:
            w = block.tokens(weight)
            block.put(dweight, (dp * p).sum(-1, keepdim=True))
            dp.mul_(w)
            p.mul_(w)
        put_slope(dk, dp, slope, block)
        if means is not None:
            shift_(p, means[0], block)
        if cos is not None:
            p = rotated(p, block.table(cos), block.table(sin), scratch.take_like_tokens("turned", *p.shape))
        dvalue = scratch.take("dvalue", *value.shape)
        dvalue.flatten(0, 1).copy_(block.state(dm).unsqueeze(1).expand_as(dvalue.flatten(0, 1)))
        dvalue.flatten(0, 1).baddbmm_(p.flatten(0, 1), dS_block)
        block.put(dv, block.clear(dvalue))
    return dk, dv, None if dweight is None else dweight.squeeze(-1)


def put_slope(out: Tensor, grad: Tensor, slope: Tensor | None, block: Block) -> None:
    """out = grad phi', 0 for dropped tokens."""
    block.clear(grad)
    if slope is None:
        block.put(out, grad)
    else:
        block.put_product(out, grad, slope)


def empties_cleared(n: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
    """The parts, or copies with zeros for states of no tokens: those read as 0 whatever they hold."""
    empty = n == 0
    if n.device.type == "cpu" and not empty.any():  # asking a GPU would wait for it
        return parts
    return tuple(x.masked_fill(empty.view(-1, *[1] * (x.dim() - 1)), 0) for x in parts)


def readout_forward(
    q: Tensor,
    S: Tensor,
    s: Tensor,
    m: Tensor,
    n: Tensor,
    tau: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    cu_seqlens: Tensor | None,
    state_index: Tensor | None,
    feature: str,
    norm: str,
    eps: float,
    eps_on: str,
    scale: float,
    cmin: float,
    centered: bool,
) -> Tensor:
    y = torch.empty(*q.shape[:3], S.shape[3], dtype=q.dtype, device=q.device)
    scratch = Scratch(q, S.dtype)
    S, s, m = empties_cleared(n, S, s, m)
    terms = state_terms(n, S, norm, eps, eps_on, scale, tau)
    for block in plan(q, max(S.shape[2:]), None, cu_seqlens, state_index, len(n)):
        f, _ = features(q, block, feature, scratch, "query", cleared=False)
        t, h, length, _ = f.shape
        z = scratch.take("z", t, h, length, 1)
        torch.bmm(f.flatten(0, 1), block.state(s).unsqueeze(-1), out=z.flatten(0, 1))
        if cos is not None:
            f = rotated(f, block.table(cos), block.table(sin), scratch.take_like_tokens("turned", *f.shape))
        u = scratch.take("u", t, h, length, S.shape[3])
        torch.bmm(f.flatten(0, 1), block.state(S), out=u.flatten(0, 1))
        own = type(terms)(*(block.term(x) for x in terms))
        alpha, beta = alpha_beta(z, own, norm, cmin, centered)
        if beta is None:
            block.put_product(y, u, alpha)
        else:
            u.mul_(alpha).addcmul_(beta, block.state(m).view(t, h, 1, -1))
            block.put(y, u)
    return y


def readout_backward(
    dy: Tensor,
    q: Tensor,
    S: Tensor,
    s: Tensor,
    m: Tensor,
    n: Tensor,
    tau: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    cu_seqlens: Tensor | None,
    state_index: Tensor | None,
    feature: str,
    norm: str,
    eps: float,
    eps_on: str,
    scale: float,
    cmin: float,
    centered: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """With h = S dy: dq = [R^T (alpha h) + dz s] phi', dS = sum (R f)(alpha dy)^T, ds = sum dz f, dm = sum
    beta dy.
    """
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    dS, ds, dm = (torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (S, s, m))
    dtau = None if tau is None else S.new_zeros(S.shape[:2])  # one a state, added at the end
    scratch = Scratch(q, S.dtype)
    S, s, m = empties_cleared(n, S, s, m)
    terms = state_terms(n, S, norm, eps, eps_on, scale, tau)
    for block in plan(q, max(S.shape[2:]), None, cu_seqlens, state_index, len(n)):
        f, slope = features(q, block, feature, scratch, "query", slope=True)
        g = block.load(dy, scratch, "dy")
        own = type(terms)(*(block.term(x) for x in terms))
        t, h, length, _ = f.shape
        fr = f
        if cos is not None:
            fr = rotated(f, block.table(cos), block.table(sin), scratch.take_like_tokens("turned", *f.shape))
        back = scratch.take("back", *f.shape)
        torch.bmm(g.flatten(0, 1), block.state(S).mT, out=back.flatten(0, 1))
        z = scratch.take("z", t, h, length, 1)
        torch.bmm(f.flatten(0, 1), block.state(s).unsqueeze(-1), out=z.flatten(0, 1))
        product = torch.mul(fr, back, out=scratch.take("product", *f.shape))
        uy = torch.sum(product, -1, keepdim=True, out=scratch.take("uy", t, h, length, 1))
        my = None
        if norm in ("mag", "sub") and not centered:
            my = torch.bmm(g.flatten(0, 1), block.state(m).unsqueeze(-1)).view_as(z)
        alpha, beta, dz, dtau_part = slopes(z, uy, my, own, norm, cmin, centered)
        if dtau is not None:
            block.add(dtau, dtau_part.sum((2, 3)))
        if beta is not None:
            block.add(dm, torch.mul(g, beta, out=scratch.take_like_tokens("beta_dy", *g.shape)).sum(2))
        block.add_product(dS, fr.flatten(0, 1), g.mul_(alpha).flatten(0, 1))
        back.mul_(alpha)
        if cos is not None:
            back = rotated(
                back, block.table(cos), block.table(sin), scratch.take("turned_back", *f.shape), back=True
            )
        if dz is not None:
            back.addcmul_(dz, block.state(s).view(t, h, 1, -1))
            ds_part = torch.bmm(dz.reshape(t * h, 1, length), f.flatten(0, 1))
            block.add(ds, ds_part.view(t, h, -1))
        put_slope(dq, back, slope, block)
    dS, ds, dm = empties_cleared(n, dS, ds, dm)
    return dq, dS, ds, dm, None if dtau is None else dtau.sum(0).to(tau.dtype)
