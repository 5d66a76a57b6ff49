"""Local attention in plain torch: tiles of queries against the box of keys they touch, backward by hand.

No N x N tensor: a tile's scores live in the cache, and the backward computes them again from q, k and lse.
Sums, scores and lse in float32 (float64 for float64). Not twice differentiable. Works on every device.
"""

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from ..linear_attn.blocks import Scratch
from .blocks import Gathered, budget, dense_rows, image_blocks
from .geometry import Geometry

FLOOR = {torch.float32: -80.0, torch.float64: -700.0}


def shared_tokens(g: Geometry, x: Tensor, extra: Tensor | None, acc: torch.dtype) -> Tensor:
    """What every image query sees: global, then extra tokens, as (B, H, G + P, .)."""
    own = g.globals_of_keys(x)
    return (own if extra is None else torch.cat((own, extra), 1)).transpose(1, 2).to(acc)


def exp_(x: Tensor) -> Tensor:
    """exp in place, never below exp(FLOOR): a CPU takes 20 to 100 times as long where it underflows.

    Against a sum of at least 1 the floor is nothing in either precision, masked keys included.
    """
    return x.clamp_(min=FLOOR[x.dtype]).exp_()


def softmax_(scores: Tensor) -> tuple[Tensor, Tensor]:
    """exp(scores - m) in place, and (m, sum): lse = m + log sum."""
    m = scores.amax(-1, keepdim=True)
    exp_(scores.sub_(m))
    return m, scores.sum(-1, keepdim=True)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra_k: Tensor | None,
    extra_v: Tensor | None,
    g: Geometry,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """y (B, Nq, H, E) in q's dtype, lse (B, Nq, H) in the accumulation dtype; contiguous."""
    g, acc = g.clipped(), accumulation_dtype(q.dtype)
    y = q.new_empty((*q.shape[:3], v.shape[3]))
    lse = q.new_empty(q.shape[:3], dtype=acc)
    scratch = Scratch(q, acc)
    if g.image_queries:
        shared = tuple(shared_tokens(g, x, e, acc) for x, e in ((k, extra_k), (v, extra_v)))
        for b in range(len(q)):
            images = (*(g.image_of_queries(x)[b] for x in (q, y, lse.unsqueeze(-1))),)
            keys = tuple(g.image_of_keys(x)[b] for x in (k, v))
            _image_forward(images, keys, tuple(x[b] for x in shared), g, scale, scratch)
    if g.q_global:
        parts = tuple(g.globals_of_queries(x) for x in (q, y, lse.unsqueeze(-1)))
        _dense_forward(*parts, k, v, scale, scratch)
    return y, lse


def _image_forward(
    queries: tuple[Tensor, ...],
    keys: tuple[Tensor, ...],
    shared: tuple[Tensor, ...],
    g: Geometry,
    scale: float,
    scratch: Scratch,
) -> None:
    """Writes y and lse of the image queries of one batch item."""
    q, y, lse = queries
    heads, n_shared = shared[0].shape[:2]
    for kind, blocks in image_blocks(g, heads, n_shared, budget(q.device)):
        own = [x[blocks[0].heads] for x in shared]
        k, v = (Gathered(scratch, name, x, s, blocks[0]) for name, x, s in zip("kv", keys, own, strict=True))
        hidden = kind.hidden(g, q)
        for block in blocks:
            tile = block.queries(q, g.first)
            query = scratch.take("q", *tile.shape[:2], kind.queries, tile.shape[-1])
            query.view(tile.shape).copy_(tile)  # and then scaled: a product of bfloat16 is rounded to it
            query.mul_(scale)
            scores = scratch.take("scores", tile.shape[0] * tile.shape[1], kind.queries, kind.keys + n_shared)
            torch.bmm(query.flatten(0, 1), k.load(block).mT, out=scores)
            if hidden is not None:
                scores[..., : kind.keys].add_(hidden)
            m, total = softmax_(scores)
            out = scratch.take("out", len(scores), kind.queries, y.shape[-1])
            torch.bmm(scores, v.load(block), out=out)
            block.queries(y, g.first).copy_(out.div_(total).view(*tile.shape[:-1], -1))
            block.queries(lse, g.first).copy_(total.log_().add_(m).view(*tile.shape[:-1], 1))


def _dense_forward(
    q: Tensor, y: Tensor, lse: Tensor, k: Tensor, v: Tensor, scale: float, scratch: Scratch
) -> None:
    """y and lse of queries that see all keys, a head and some queries at a time."""
    rows = dense_rows(q.shape[1], k.shape[1], budget(q.device))
    for b in range(len(q)):
        for h in range(q.shape[2]):
            own_k, own_v = (x[b, :, h].to(scratch.dtype) for x in (k, v))
            for i in range(0, q.shape[1], rows):
                own = (b, slice(i, i + rows), h)
                scores = q[own].to(scratch.dtype).mul(scale) @ own_k.mT
                m, total = softmax_(scores)
                y[own] = (scores @ own_v / total).to(y.dtype)
                lse[own] = total.log_().add_(m)
