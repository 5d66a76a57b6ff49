"""The kernel of the gradients of q, k, the log decays, the log weights and the bonus.

A log decay's gradient is a sum over what it lies between, never a difference: pairs of tokens, reads of the
chunk's entry state, keys on their way to its exit, and the state itself.
"""

import triton
import triton.language as tl

from ..linear_attn.triton_parts import dot, load_rows, load_state, store_rows
from .triton_parts import (
    INTEGERS,
    across_middle,
    before,
    load_gates,
    load_keys,
    load_values,
    locate,
    scalar_sums,
    scalar_weights,
    sums,
    to_middle,
    tokens_of,
)


@triton.jit
def scalar_gradients(
    query, key, dA, dqueries, dkeys, dkeep, b, met, total,
    OPERAND: tl.constexpr, EXCLUSIVE: tl.constexpr, SYMMETRIC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(dq, dk, dg (BN,)) of decays that all channels share."""
    BN: tl.constexpr = query.shape[0]
    i = tl.arange(0, BN)[:, None]
    j = tl.arange(0, BN)[None, :]
    dqueries *= tl.exp(met.to(tl.float32))[:, None]
    dkeys *= tl.exp((total - b).to(tl.float32))[:, None]
    read = tl.sum(dqueries * query, 1)
    kept = tl.sum(dkeys * key, 1)
    dscores = dA * scalar_weights(b, met, SYMMETRIC, BN)
    dq = dot(dscores, key, dqueries, OPERAND, PRECISION)
    dk = dot(tl.trans(dscores), query, dkeys, OPERAND, PRECISION)
    none = tl.zeros([BN, BN], tl.float32)
    pairs = dscores * dot(query, tl.trans(key), none, OPERAND, PRECISION)
    if SYMMETRIC:
        pairs = tl.where(i > j, pairs + tl.trans(pairs), 0.0)
    # here the rows are those of log decays: later readers, earlier keys
    readers = before(j, i, EXCLUSIVE)
    later = tl.cumsum(pairs, 0, reverse=True)
    if EXCLUSIVE:  # readers after the log decay's own token: one row further down
        dg = tl.sum(tl.where(i > j + 1, later, 0.0), 1)
        dg = tl.sum(tl.where(j == i + 1, dg[None, :], 0.0), 1)
    else:
        dg = tl.sum(tl.where(i > j, later, 0.0), 1)
    dg += tl.sum(tl.where(readers, read[None, :], 0.0), 1)
    dg += tl.sum(tl.where(i > j, kept[None, :], 0.0), 1)
    dg += tl.sum(dkeep, 0) * tl.exp(total.to(tl.float32))
    return dq, dk, dg


@triton.jit
def channel_gradients(
    query, key, dA, dqueries, dkeys, dkeep, gates,
    OPERAND: tl.constexpr, EXCLUSIVE: tl.constexpr, LEVELS: tl.constexpr, PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """(dq, dk, dg) of decays per channel, each (BN, BD)."""
    rows = tl.arange(0, query.shape[0])
    i = rows[:, None]
    j = rows[None, :]
    dq = dqueries * tl.exp(sums(before(i, j, EXCLUSIVE), gates, PARTS))
    dk = dkeys * tl.exp(sums(j > i, gates, PARTS))
    dg = sums(before(j, i, EXCLUSIVE), dq * query, PARTS) + sums(i > j, dk * key, PARTS)
    dg += (dkeep * tl.exp(tl.sum(gates, 0)))[None, :]
    for level in range(LEVELS):
        h = 1 << level
        factor = tl.exp(sums(to_middle(i, j, h, EXCLUSIVE), gates, PARTS))
        near_query = query * factor
        near_key = key * factor
        dscores = tl.where(across_middle(i, j, h), dA, 0.0)
        none = tl.zeros([query.shape[0], query.shape[1]], tl.float32)
        dnear_query = dot(dscores, near_key, none, OPERAND, PRECISION)
        dnear_key = dot(tl.trans(dscores), near_query, none, OPERAND, PRECISION)
        dq += dnear_query * factor
        dk += dnear_key * factor
        dfactor = dnear_query * near_query + dnear_key * near_key
        dg += sums(to_middle(j, i, h, EXCLUSIVE), dfactor, PARTS)
    return dq, dk, dg


@triton.jit(do_not_specialize=INTEGERS)
def gradients_kernel(
    q, k, v, do, g, weight, bonus, states, dstates, cu, tile_row, tile_chunk,
    dq_out, dk_out, dg_out, dweight_out, dbonus_out, scale,
    qb, qn, qh, kb, kn, kh, vb, vn, vh, gb, gn, gh, wb, wn, wh, N, R, span,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, COUNT: tl.constexpr,
    GATES: tl.constexpr, EXCLUSIVE: tl.constexpr, SYMMETRIC: tl.constexpr, REVERSE: tl.constexpr,
    ALIGN: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, LEVELS: tl.constexpr,
    PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A chunk's gradients in BD of the key channels; of scalar decays and weights, those channels' part."""
    tile = tl.program_id(0)
    if tile_row is not None and tl.load(tile_row + tile) >= R:
        return  # the tile list is padded to a length that needs no look at the data
    _, batch, chunk, start, length = locate(tile, tile_row, tile_chunk, cu, N, span)
    head = tl.program_id(1).to(tl.int64)
    d = tl.program_id(2) * BD + tl.arange(0, BD)
    tokens, live = tokens_of(chunk, start, length, span, REVERSE, BN)
    operand: tl.constexpr = k.dtype.element_ty
    q += (batch * qb + head * qh) * ALIGN
    k += (batch * kb + head * kh) * ALIGN
    v += (batch * vb + head * vh) * ALIGN
    do += (batch * N * H + head) * E
    g_align: tl.constexpr = ALIGN if GATES == "channel" else 1
    g += (batch * gb + head * gh) * g_align
    if weight is not None:
        weight += batch * wb + head * wh
    cell = (tile.to(tl.int64) * H + head) * (D * E)
    rows = tl.arange(0, BN)
    dA = tl.zeros([BN, BN], tl.float32)
    dqueries = tl.zeros([BN, BD], tl.float32)
    dkeys = tl.zeros([BN, BD], tl.float32)
    dkeep = tl.zeros([BD], tl.float32)
    for e0 in range(0, E, BE):
        e = e0 + tl.arange(0, BE)
        grad = load_rows(do, tokens, H * E, e, live, E, 1)
        value = load_values(v, tokens, vn, e, live, EV, COUNT, ALIGN)
        dA = dot(grad, tl.trans(value), dA, operand, PRECISION)
        S = load_state(states + cell, d, e, D, E)
        dS = load_state(dstates + cell, d, e, D, E)
        dqueries = dot(grad, tl.trans(S), dqueries, operand, PRECISION)
        dkeys = dot(value, tl.trans(dS), dkeys, operand, PRECISION)
        dkeep += tl.sum(S * dS, 1)

    query = load_rows(q, tokens, qn, d, live, D, ALIGN) * scale
    key = load_keys(k, weight, tokens, kn, wn, d, live, D, ALIGN)
    if GATES == "channel":
        gates = load_gates(g, tokens, gn, d, live, D, ALIGN)
        dq, dk, dg = channel_gradients(
            query, key, dA, dqueries, dkeys, dkeep, gates, operand, EXCLUSIVE, LEVELS, PARTS, PRECISION
        )  # fmt: skip
        store_rows(dg_out + (batch * N * H + head) * D, tokens, H * D, d, dg, live, D)
    else:
        b, met, total = scalar_sums(g, tokens, gn, live, GATES == "constant", EXCLUSIVE)
        dq, dk, dg = scalar_gradients(
            query, key, dA, dqueries, dkeys, dkeep, b, met, total,
            operand, EXCLUSIVE, SYMMETRIC, PRECISION,
        )  # fmt: skip
    own = tl.sum(tl.where(rows[:, None] == rows[None, :], dA, 0.0), 1)[:, None]
    if bonus is not None:
        count = tl.load(bonus + head * D + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
        dq += own * count * key
        dk += own * count * query
        dbonus = tl.sum(own * query * key, 0)
        tl.store(dbonus_out + (tile.to(tl.int64) * H + head) * D + d, dbonus, mask=d < D)
    elif not EXCLUSIVE:
        dq += own * key
        dk += own * query
    # parts of this program's channels, (parts, B, N, H): rows of packed segments are all of batch item 0
    items = R if cu is None else 1
    part = ((tl.program_id(2).to(tl.int64) * items + batch) * N + tokens) * H + head
    if GATES != "channel":
        tl.store(dg_out + part, dg, mask=live)
    if weight is not None:
        tl.store(dweight_out + part, tl.sum(dk * key, 1), mask=live)
        dk *= tl.exp(tl.load(weight + tokens * wn, mask=live, other=0.0).to(tl.float32))[:, None]
    store_rows(dq_out + (batch * N * H + head) * D, tokens, H * D, d, dq * scale, live, D)
    store_rows(dk_out + (batch * N * H + head) * D, tokens, H * D, d, dk, live, D)
