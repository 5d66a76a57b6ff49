"""The kernel of what tokens read: o = A v + Q S, and the gradient of v, which is A^T do + K dS.

A are a chunk's token-to-token weights, Q and K its decayed queries and keys, S and dS the states before and
the gradient of the state after it.
"""

import triton
import triton.language as tl

from ..linear_attn.triton_parts import dot, load_rows, load_state, store_rows
from .triton_parts import (
    INTEGERS,
    before,
    channel_scores,
    load_gates,
    load_keys,
    load_values,
    locate,
    scalar_sums,
    scalar_weights,
    sums,
    tokens_of,
)


@triton.jit(do_not_specialize=INTEGERS)
def outputs_kernel(
    q, k, v, do, g, weight, bonus, states, cu, tile_row, tile_chunk, out, scale,
    qb, qn, qh, kb, kn, kh, vb, vn, vh, gb, gn, gh, wb, wn, wh, N, R, span,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, COUNT: tl.constexpr,
    GATES: tl.constexpr, EXCLUSIVE: tl.constexpr, SYMMETRIC: tl.constexpr, REVERSE: tl.constexpr,
    TRANSPOSED: tl.constexpr, ALIGN: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
    LEVELS: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A chunk's o, or its gradient of v (TRANSPOSED), in BE of the value columns."""
    tile = tl.program_id(0)
    if tile_row is not None and tl.load(tile_row + tile) >= R:
        return  # the tile list is padded to a length that needs no look at the data
    _, batch, chunk, start, length = locate(tile, tile_row, tile_chunk, cu, N, span)
    head = tl.program_id(1).to(tl.int64)
    e = tl.program_id(2) * BE + tl.arange(0, BE)
    tokens, live = tokens_of(chunk, start, length, span, REVERSE, BN)
    operand: tl.constexpr = k.dtype.element_ty
    q += (batch * qb + head * qh) * ALIGN
    k += (batch * kb + head * kh) * ALIGN
    g_align: tl.constexpr = ALIGN if GATES == "channel" else 1
    g += (batch * gb + head * gh) * g_align
    if weight is not None:
        weight += batch * wb + head * wh
    states += (tile.to(tl.int64) * H + head) * (D * E)
    rows = tl.arange(0, BN)
    if GATES != "channel":
        b, met, total = scalar_sums(g, tokens, gn, live, GATES == "constant", EXCLUSIVE)
        outside = tl.exp((total - b if TRANSPOSED else met).to(tl.float32))[:, None]

    A = tl.zeros([BN, BN], tl.float32)
    own = tl.zeros([BN], tl.float32)
    acc = tl.zeros([BN, BE], tl.float32)
    for d0 in range(0, D, BD):
        d = d0 + tl.arange(0, BD)
        query = load_rows(q, tokens, qn, d, live, D, ALIGN) * scale
        key = load_keys(k, weight, tokens, kn, wn, d, live, D, ALIGN)
        if bonus is not None:
            count = tl.load(bonus + head * D + d, mask=d < D, other=0.0).to(tl.float32)
            own += tl.sum(query * count[None, :] * key, 1)
        elif not EXCLUSIVE:
            own += tl.sum(query * key, 1)
        if GATES == "channel":
            gates = load_gates(g, tokens, gn, d, live, D, ALIGN)
            A = channel_scores(A, query, key, gates, operand, EXCLUSIVE, LEVELS, PARTS, PRECISION)
            if TRANSPOSED:
                ones = rows[None, :] > rows[:, None]
            else:
                ones = before(rows[:, None], rows[None, :], EXCLUSIVE)
            outside = tl.exp(sums(ones, gates, PARTS))
        else:
            A = dot(query, tl.trans(key), A, operand, PRECISION)
        decayed = (key if TRANSPOSED else query) * outside
        acc = dot(decayed, load_state(states, d, e, D, E), acc, operand, PRECISION)

    if GATES != "channel":
        A *= scalar_weights(b, met, SYMMETRIC, BN)
    A += tl.where(rows[:, None] == rows[None, :], own[:, None], 0.0)
    if TRANSPOSED:
        grad = load_rows(do + (batch * N * H + head) * E, tokens, H * E, e, live, E, 1)
        acc = dot(tl.trans(A), grad, acc, operand, PRECISION)
    else:
        value = load_values(
            v + (batch * vb + head * vh) * ALIGN, tokens, vn, e, live, EV, COUNT, ALIGN
        )  # fmt: skip
        acc = dot(A, value, acc, operand, PRECISION)
    width: tl.constexpr = EV if TRANSPOSED else E
    store_rows(out + (batch * N * H + head) * width, tokens, H * width, e, acc, live, width)
