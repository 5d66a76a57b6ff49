"""The states between chunks: what each chunk does on its own, then one pass over the chunks of a sequence.

A chunk takes h to e^{A sum delta} h + its own sum, so it is known by that sum and by sum delta.
"""

import triton
import triton.language as tl

from .triton_parts import INTEGERS, load_few, load_tile, locate, step, store_tile


@triton.jit(do_not_specialize=INTEGERS)
def sums_kernel(
    u, delta, A, w, sums, totals, segment, first_slots, cu,
    ub, un, db, dn, wb, wn, N, n_states,
    C: tl.constexpr, S: tl.constexpr, SIZE: tl.constexpr, T: tl.constexpr, BC: tl.constexpr,
    BS: tl.constexpr, REVERSE: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """A chunk's own sum and its sum of delta. u, w: inputs and B; with ADJOINT dy and C, from the last token.

    The adjoint: the gradient at the state before the chunk, from its own outputs.
    """
    slot = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    s = tl.arange(0, BS)
    batch, first, number = locate(slot, segment, first_slots, cu, N, n_states, SIZE, REVERSE)
    A = load_tile(A, c, s, C, S)
    u += batch * ub
    delta += batch * db
    w += batch * wb
    h = tl.zeros([BC, BS], tl.float32)
    total = tl.zeros([BC], tl.float32)
    few = tl.cdiv(number, T)
    for k in range(few):
        i = (few - 1 - k) * T if ADJOINT else k * T
        us = load_few(u, first, i, number, un, c, c < C, T, REVERSE)
        deltas = load_few(delta, first, i, number, dn, c, c < C, T, REVERSE)
        ws = load_few(w, first, i, number, wn, s, s < S, T, REVERSE)
        for j in tl.static_range(T):
            if ADJOINT:
                d = deltas[T - 1 - j]
                h = (h + us[T - 1 - j][:, None] * ws[T - 1 - j][None, :]) * tl.exp2(d[:, None] * A)
            else:
                d = deltas[j]
                h = step(h, us[j], d, ws[j], A)
            total += d
    slot = slot.to(tl.int64)
    store_tile(sums + slot * C * S, c, s, h, C, S)
    tl.store(totals + slot * C + c, total, mask=c < C)


@triton.jit(do_not_specialize=INTEGERS)
def between_kernel(
    A, start, sums, totals, last, first_slots, N,
    C: tl.constexpr, S: tl.constexpr, SIZE: tl.constexpr, BC: tl.constexpr, BS: tl.constexpr,
    ADJOINT: tl.constexpr,
):  # fmt: skip
    """Replaces each chunk's sum by the state before it, and writes the one after the last chunk.

    ADJOINT: from the last chunk to the first, gradients at the states after each chunk.
    """
    state = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    s = tl.arange(0, BS)
    A = load_tile(A, c, s, C, S)
    if first_slots is None:
        chunks = tl.cdiv(N, SIZE)
        slot = state * chunks
    else:
        slot = tl.load(first_slots + state).to(tl.int64)
        chunks = (tl.load(first_slots + state + 1) - slot).to(tl.int32)
    h = tl.zeros([BC, BS], tl.float32)
    if start is not None:
        h = load_tile(start + state * C * S, c, s, C, S)
    for k in range(chunks):
        own = slot + (chunks - 1 - k if ADJOINT else k)
        x = load_tile(sums + own * C * S, c, s, C, S)
        total = tl.load(totals + own * C + c, mask=c < C, other=0.0)
        tl.debug_barrier()  # every thread has read before any writes
        store_tile(sums + own * C * S, c, s, h, C, S)
        h = tl.exp2(total[:, None] * A) * h + x
    store_tile(last + state * C * S, c, s, h, C, S)
