"""What tokens get, chunk by chunk from the states between chunks: outputs, and gradients of all inputs."""

import triton
import triton.language as tl

from .triton_parts import INTEGERS, LN2, load_few, load_tile, locate, step, store_tile


@triton.jit(do_not_specialize=INTEGERS)
def outputs_kernel(
    u, delta, A, w, r, D, y, states, segment, first_slots, cu,
    ub, un, db, dn, wb, wn, rb, rn, N, n_states,
    C: tl.constexpr, S: tl.constexpr, SIZE: tl.constexpr, T: tl.constexpr, BC: tl.constexpr,
    BS: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """y of a chunk's tokens; w is B (what is written), r is C (what is read with)."""
    slot = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    s = tl.arange(0, BS)
    batch, first, number = locate(slot, segment, first_slots, cu, N, n_states, SIZE, REVERSE)
    A = load_tile(A, c, s, C, S)
    h = load_tile(states + slot.to(tl.int64) * C * S, c, s, C, S)
    skip = tl.zeros([BC], tl.float32)
    if D is not None:
        skip = tl.load(D + c, mask=c < C, other=0.0)
    u += batch * ub
    delta += batch * db
    w += batch * wb
    r += batch * rb
    y += batch * N * C
    for i in range(0, number, T):
        us = load_few(u, first, i, number, un, c, c < C, T, REVERSE)
        deltas = load_few(delta, first, i, number, dn, c, c < C, T, REVERSE)
        ws = load_few(w, first, i, number, wn, s, s < S, T, REVERSE)
        rs = load_few(r, first, i, number, rn, s, s < S, T, REVERSE)
        for j in tl.static_range(T):
            h = step(h, us[j], deltas[j], ws[j], A)
            out = tl.sum(h * rs[j][None, :], 1) + skip * us[j]
            token = first - (i + j) if REVERSE else first + (i + j)
            tl.store(y + token * C + c, out.to(y.dtype.element_ty), mask=(c < C) & (i + j < number))


@triton.jit(do_not_specialize=INTEGERS)
def gradients_kernel(
    u, delta, A, w, r, D, dy, states, arriving, du, ddelta, dw, dr, dA, dD, segment, first_slots, cu,
    ub, un, db, dn, wb, wn, rb, rn, N, n_states,
    C: tl.constexpr, S: tl.constexpr, SIZE: tl.constexpr, T: tl.constexpr, BC: tl.constexpr,
    BS: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Of a chunk, from its last token on; T states at a time are computed again from the one before it.

    dw, dr: shares of BC channels (tiles, B, N, S).  dA, dD: shares of the chunk (chunks, C, S), (chunks, C).
    """
    slot = tl.program_id(0)
    tile = tl.program_id(1)
    c = tile * BC + tl.arange(0, BC)
    s = tl.arange(0, BS)
    batch, first, number = locate(slot, segment, first_slots, cu, N, n_states, SIZE, REVERSE)
    slot = slot.to(tl.int64)
    A = load_tile(A, c, s, C, S)
    g = load_tile(arriving + slot * C * S, c, s, C, S)
    skip = tl.zeros([BC], tl.float32)
    if D is not None:
        skip = tl.load(D + c, mask=c < C, other=0.0)
    u += batch * ub
    delta += batch * db
    w += batch * wb
    r += batch * rb
    row = batch * N
    share = (tile.to(tl.int64) * (n_states if segment is None else 1) + batch) * N
    sum_A = tl.zeros([BC, BS], tl.float32)
    sum_D = tl.zeros([BC], tl.float32)
    few = tl.cdiv(number, T)
    for k in range(few):
        i = (few - 1 - k) * T
        h = load_tile(states + slot * C * S, c, s, C, S)
        for m in range(0, i, T):
            us = load_few(u, first, m, number, un, c, c < C, T, REVERSE)
            deltas = load_few(delta, first, m, number, dn, c, c < C, T, REVERSE)
            ws = load_few(w, first, m, number, wn, s, s < S, T, REVERSE)
            for j in tl.static_range(T):
                h = step(h, us[j], deltas[j], ws[j], A)
        us = load_few(u, first, i, number, un, c, c < C, T, REVERSE)
        deltas = load_few(delta, first, i, number, dn, c, c < C, T, REVERSE)
        ws = load_few(w, first, i, number, wn, s, s < S, T, REVERSE)
        rs = load_few(r, first, i, number, rn, s, s < S, T, REVERSE)
        dys = load_few(dy + row * C, first, i, number, C, c, c < C, T, REVERSE)
        hs = (h,)
        for j in tl.static_range(T):
            h = step(h, us[j], deltas[j], ws[j], A)
            hs += (h,)
        for own in tl.static_range(T - 1, -1, -1):
            d = deltas[own]
            x = us[own]
            out = dys[own]
            g += out[:, None] * rs[own][None, :]
            read = tl.sum(g * ws[own][None, :], 1)
            decay = tl.exp2(d[:, None] * A)
            e = g * decay * hs[own]
            sum_A += d[:, None] * e
            sum_D += out * x
            token = first - (i + own) if REVERSE else first + (i + own)
            live = (c < C) & (i + own < number)
            at = (row + token) * C + c
            tl.store(du + at, (skip * out + d * read).to(du.dtype.element_ty), mask=live)
            slope = x * read + tl.sum(e * A, 1) * LN2
            tl.store(ddelta + at, slope.to(ddelta.dtype.element_ty), mask=live)
            at = (share + token) * S + s
            live = (s < S) & (i + own < number)
            tl.store(dw + at, tl.sum(g * (d * x)[:, None], 0), mask=live)
            tl.store(dr + at, tl.sum(hs[own + 1] * out[:, None], 0), mask=live)
            g = g * decay
    store_tile(dA + slot * C * S, c, s, sum_A, C, S)
    tl.store(dD + slot * C + c, sum_D, mask=c < C)
