"""Gradients of the scan in plain torch, chunk by chunk from the last: states are computed again within each.

With a_t = e^{delta_t A} and g_t the gradient that arrives at h_t:

    g_t = C_t dy_t + a_{t+1} g_{t+1}      dC_t = sum_c h_t dy_t      dB_t = sum_c delta_t u_t g_t
    du_t = D dy_t + delta_t <B_t, g_t>    ddelta_t = u_t <B_t, g_t> + sum_s A e_t      e_t = g_t a_t h_{t-1}
    dA = sum_t delta_t e_t                dD = sum_t dy_t u_t
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from . import order
from .eager import (
    Block,
    Columns,
    Inputs,
    Room,
    channel_blocks,
    columns_of,
    forward,
    kept_states,
    walk,
    widest,
)
from .order import Pattern


class Sums(NamedTuple):
    """Gradients that several chunks or blocks of channels add to: dA (S, C), dB, dC (B N, S), dD (C)."""

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor


def backward(dy: Tensor, dstate: Tensor, x: Inputs, kept: Tensor) -> tuple[Tensor | None, ...]:
    """(du, ddelta, dA, dB, dC, dD, dinitial) in the inputs' dtypes; None where there is no input."""
    acc, u = accumulation_dtype(x.u.dtype), x.u
    channels, size = x.A.shape
    if len(kept) < kept_states(u, x.cu_seqlens):  # the forward was told that no gradient would be asked for
        kept = forward(x, keep=True)[2]
    du, ddelta = u.new_empty(u.shape), x.delta.new_empty(u.shape)
    shapes = ((size, channels), *((u.shape[0] * u.shape[1], size),) * 2, (channels,))
    sums = Sums(*(u.new_zeros(shape, dtype=acc) for shape in shapes))
    dinitial = dstate.to(acc).clone(memory_format=torch.contiguous_format)
    room = Room(u, acc)
    for lanes in order.lanes(u, x.cu_seqlens, x.reverse, widest(channels, size)):
        for own in channel_blocks(channels, size):
            columns, upper = columns_of(x, own, acc), dy.flatten(0, 1)[:, own]
            arriving = dinitial[lanes.states, own].mT.contiguous()
            for chunk in reversed(lanes.chunks):
                block = columns.at(chunk.tokens)
                out = order.take_rows(upper, chunk.tokens).to(acc).unsqueeze(1)
                if chunk.kept is not None:
                    h = kept[chunk.kept : chunk.kept + chunk.lanes, own].mT
                elif x.initial is None:
                    h = u.new_zeros((), dtype=acc).expand(chunk.lanes, *columns.A.shape)
                else:
                    h = x.initial[lanes.states, own].mT
                inner = _adjoint(columns, block, out, h, arriving, chunk.pattern, room)
                du_own, ddelta_own = _reduce(columns, block, out, inner, sums, own, chunk.tokens)
                du_own = du_own if x.D is None else du_own.addcmul_(x.D[own].to(acc), out)
                for whole, part in ((du, du_own), (ddelta, ddelta_own)):
                    order.put_rows(whole.flatten(0, 1)[:, own], chunk.tokens, part.squeeze(1))
            dinitial[lanes.states, own] = arriving.mT
    dA = sums.A.t().contiguous().to(x.A.dtype)
    dB, dC = (t.view(b.shape).to(b.dtype) for t, b in ((sums.B, x.B), (sums.C, x.C)))
    dD = None if x.D is None else sums.D.to(x.D.dtype)
    return du, ddelta, dA, dB, dC, dD, None if x.initial is None else dinitial


def _adjoint(
    columns: Columns, block: Block, out: Tensor, h: Tensor, arriving: Tensor, pattern: Pattern, room: Room
) -> tuple[Tensor, Tensor, Tensor]:
    """(h_t, g_t, e_t) of a chunk; ``arriving``, at the lanes' last states, becomes what leaves the chunk."""
    a, states = walk(columns, block, h, pattern, room)
    g = room.take("g", pattern, *columns.A.shape)
    torch.mul(block.C, out, out=g.whole)
    ends = {step: slice(first, stop) for step, first, stop in pattern.ends}
    for i in reversed(range(len(g.steps))):
        if i in ends:
            g.steps[i][ends[i]].add_(arriving[ends[i]])
        if i:
            g.earlier[i - 1].addcmul_(a.steps[i], g.steps[i])
    torch.mul(a.steps[0], g.steps[0], out=arriving[: len(h)])
    e = a.whole  # decays so far
    a.steps[0].mul_(h)
    for start, stop, earlier in pattern.moves:
        e[start:stop].mul_(states.whole[earlier : earlier + stop - start])
    return states.whole, g.whole, e.mul_(g.whole)


def _reduce(
    columns: Columns,
    block: Block,
    out: Tensor,
    inner: tuple[Tensor, Tensor, Tensor],
    sums: Sums,
    own: slice,
    tokens: Tensor | slice,
) -> tuple[Tensor, Tensor]:
    """(du without D's part, ddelta) of a chunk, and its share of the sums; uses up ``inner``."""
    states, g, e = inner
    for whole, part in (
        (sums.C, torch.bmm(states, out.mT)),
        (sums.B, torch.bmm(g, (block.delta * block.u).mT)),
    ):
        order.put_rows(whole, tokens, order.take_rows(whole, tokens) + part.squeeze(2))
    sums.A[:, own].add_(torch.mul(e, block.delta, out=states).sum(0))
    sums.D[own].add_((out * block.u).sum((0, 1)))
    read = torch.bmm(block.B.mT, g)
    return block.delta * read, (block.u * read).add_(e.mul_(columns.A).sum(1, keepdim=True))
