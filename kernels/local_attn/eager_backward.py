"""The gradient of eager local attention; scores are computed again from q, k and lse.

p_ij = exp(s_ij - lse_i)      delta_i = y_i . dy_i - dlse_i      ds_ij = p_ij (dy_i . v_j - delta_i)
dq_i = scale sum_j ds_ij k_j      dk_j = scale sum_i ds_ij q_i      dv_j = sum_i p_ij dy_i
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from ..linear_attn.blocks import Scratch
from .blocks import Block, Gathered, budget, dense_rows, image_blocks
from .eager import exp_, shared_tokens
from .geometry import Geometry


@dataclass(frozen=True)
class Rows:
    """What belongs to some queries: q, dy, lse and delta (last two with one column), and dq to write."""

    q: Tensor
    dy: Tensor
    lse: Tensor
    delta: Tensor
    dq: Tensor


def backward(
    dy: Tensor,
    dlse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra_k: Tensor | None,
    extra_v: Tensor | None,
    y: Tensor,
    lse: Tensor,
    g: Geometry,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """(dq, dk, dv, dextra_k, dextra_v) in the inputs' dtypes, contiguous; None without extra keys."""
    g, acc = g.clipped(), accumulation_dtype(q.dtype)
    scratch, dq = Scratch(q, acc), q.new_empty(q.shape)
    dk, dv = (x.new_zeros(x.shape, dtype=acc) for x in (k, v))
    delta = torch.einsum("bnhe,bnhe->bnh", dy.to(acc), y.to(acc)).sub_(dlse).unsqueeze(-1)
    rows = (q, dy, lse.unsqueeze(-1), delta, dq)
    shared = tuple(shared_tokens(g, x, e, acc) for x, e in ((k, extra_k), (v, extra_v)))
    d_shared = tuple(torch.zeros_like(x) for x in shared)
    if g.image_queries:
        for b in range(len(q)):
            own = Rows(*(g.image_of_queries(x)[b] for x in rows))
            images = tuple(g.image_of_keys(x)[b] for x in (k, v, dk, dv))
            _image_backward(own, images, tuple(x[b] for x in (*shared, *d_shared)), g, scale, scratch)
    if g.q_global:
        _dense_backward(Rows(*(g.globals_of_queries(x) for x in rows)), k, v, dk, dv, scale, scratch)
    extras = []
    for whole, part, extra in zip((dk, dv), d_shared, (extra_k, extra_v), strict=True):
        part = part.transpose(1, 2)
        g.globals_of_keys(whole).add_(part[:, : g.k_global])
        extras.append(None if extra is None else part[:, g.k_global :].to(q.dtype).contiguous())
    return dq, dk.to(k.dtype), dv.to(v.dtype), *extras


def _image_backward(
    rows: Rows,
    images: tuple[Tensor, ...],
    shared: tuple[Tensor, ...],
    g: Geometry,
    scale: float,
    scratch: Scratch,
) -> None:
    """images: k, v, dk, dv (rows, width, H, .); shared: the same of global and extra tokens (H, G + P, .)."""
    k, v, dk, dv = images
    heads, n_shared = shared[0].shape[:2]
    for kind, blocks in image_blocks(g, heads, n_shared, budget(k.device) // 2):
        own = [x[blocks[0].heads] for x in shared]
        keys, values = (
            Gathered(scratch, name, x, s, blocks[0]) for name, x, s in zip("kv", (k, v), own[:2], strict=True)
        )
        hidden = kind.hidden(g, k)
        for block in blocks:
            q, dy, lse, delta = (
                _load(block, x, g, scratch, name)
                for name, x in (("q", rows.q), ("dy", rows.dy), ("lse", rows.lse), ("delta", rows.delta))
            )
            key, value = keys.load(block), values.load(block)
            scores = scratch.take("scores", len(q), kind.queries, kind.keys + n_shared)
            torch.bmm(q.mul_(scale), key.mT, out=scores)
            if hidden is not None:
                scores[..., : kind.keys].add_(hidden)
            p = exp_(scores.sub_(lse))
            _add(block, dv, own[3], torch.bmm(p.mT, dy, out=_like(scratch, "dvalue", value)))
            ds = torch.bmm(dy, value.mT, out=_like(scratch, "ds", p)).sub_(delta).mul_(p)
            _add(block, dk, own[2], torch.bmm(ds.mT, q, out=_like(scratch, "dkey", key)))
            target = block.queries(rows.dq, g.first)
            dq = torch.bmm(ds, key, out=_like(scratch, "dq", q)).mul_(scale)
            target.copy_(dq.view(target.shape))


def _load(block: Block, image: Tensor, g: Geometry, scratch: Scratch, name: str) -> Tensor:
    """The block's queries as (t h, n, .) in the accumulation dtype."""
    tile = block.queries(image, g.first)
    loaded = scratch.take(name, *tile.shape[:2], block.kind.queries, tile.shape[-1])
    loaded.view(tile.shape).copy_(tile)
    return loaded.flatten(0, 1)


def _like(scratch: Scratch, name: str, x: Tensor) -> Tensor:
    return scratch.take(name, *x.shape)


def _add(block: Block, image: Tensor, shared: Tensor, part: Tensor) -> None:
    """Adds (t h, box + shared, .) to an image (rows, width, H, .) and to the shared tokens (h, P, .)."""
    part = part.unflatten(0, (len(block.tiles), -1))
    block.add_to_keys(image, part[:, :, : block.kind.keys])
    shared += part[:, :, block.kind.keys :].sum(0)


def _dense_backward(
    rows: Rows, k: Tensor, v: Tensor, dk: Tensor, dv: Tensor, scale: float, scratch: Scratch
) -> None:
    """Of queries that see all keys: a head and some queries at a time."""
    step = dense_rows(rows.q.shape[1], k.shape[1], budget(k.device) // 2)
    for b in range(len(k)):
        for h in range(k.shape[2]):
            own_k, own_v = (x[b, :, h].to(scratch.dtype) for x in (k, v))
            for i in range(0, rows.q.shape[1], step):
                own = (b, slice(i, i + step), h)
                q, dy = rows.q[own].to(scratch.dtype).mul(scale), rows.dy[own].to(scratch.dtype)
                p = exp_((q @ own_k.mT).sub_(rows.lse[own]))
                dv[b, :, h].addmm_(p.mT, dy)
                ds = (dy @ own_v.mT).sub_(rows.delta[own]).mul_(p)
                dk[b, :, h].addmm_(ds.mT, q)
                rows.dq[own] = (ds @ own_k).mul_(scale).to(rows.dq.dtype)
