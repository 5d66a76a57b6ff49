"""The kernel that passes states over the chunks of a row: forward, and backward as gradients of states.

S_out = e^T S_in + X^T Y      forward: X = k e^(to the chunk's exit), Y = v
                              backward: X = q e^(from its entry), Y = do, from the last chunk to the first
"""

import triton
import triton.language as tl

from ..linear_attn.triton_parts import dot, load_rows, load_state
from .triton_parts import INTEGERS, before, load_gates, load_keys, load_values, scalar_sums, sums, tokens_of


@triton.jit(do_not_specialize=INTEGERS)
def states_kernel(
    x, v, do, g, weight, initial, cu, first_tile, states_out, last_out, scale,
    xb, xn, xh, vb, vn, vh, gb, gn, gh, wb, wn, wh, N, span,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, COUNT: tl.constexpr,
    GATES: tl.constexpr, EXCLUSIVE: tl.constexpr, REVERSE: tl.constexpr, BACKWARD: tl.constexpr,
    ALIGN: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One D x E tile of the states of one row and head: written before every chunk, and after the last."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    d = tl.program_id(2) // tl.cdiv(E, BE) * BD + tl.arange(0, BD)
    e = tl.program_id(2) % tl.cdiv(E, BE) * BE + tl.arange(0, BE)
    if cu is None:
        batch = row
        start = 0
        length = N
        tile = row * tl.cdiv(N, span)
    else:
        batch = row * 0
        start = tl.load(cu + row)
        length = tl.load(cu + row + 1) - start
        tile = tl.load(first_tile + row).to(tl.int64)
    chunks = tl.cdiv(length, span)
    operand: tl.constexpr = x.dtype.element_ty
    x += (batch * xb + head * xh) * ALIGN
    g_align: tl.constexpr = ALIGN if GATES == "channel" else 1
    g += (batch * gb + head * gh) * g_align
    if BACKWARD:
        do += (batch * N * H + head) * E
    else:
        v += (batch * vb + head * vh) * ALIGN
        if weight is not None:
            weight += batch * wb + head * wh
    rows = tl.arange(0, BN)
    inside = (d < D)[:, None] & (e < E)[None, :]
    cells = d[:, None] * E + e[None, :]
    S = tl.zeros([BD, BE], tl.float32)
    if initial is not None:
        S = load_state(initial + (row * H + head) * (D * E), d, e, D, E)
    for n in range(chunks):
        chunk = chunks - 1 - n if BACKWARD else n
        tokens, live = tokens_of(chunk, start, length, span, REVERSE, BN)
        tl.store(states_out + ((tile + chunk) * H + head) * (D * E) + cells, S, mask=inside)
        if BACKWARD:
            left = load_rows(x, tokens, xn, d, live, D, ALIGN) * scale
            right = load_rows(do, tokens, H * E, e, live, E, 1)
        else:
            left = load_keys(x, weight, tokens, xn, wn, d, live, D, ALIGN)
            right = load_values(v, tokens, vn, e, live, EV, COUNT, ALIGN)
        if GATES == "channel":
            gates = load_gates(g, tokens, gn, d, live, D, ALIGN)
            if BACKWARD:
                ones = before(rows[:, None], rows[None, :], EXCLUSIVE)
            else:
                ones = rows[None, :] > rows[:, None]
            left *= tl.exp(sums(ones, gates, PARTS))
            keep = tl.exp(tl.sum(gates, 0))[:, None]
        else:
            b, met, total = scalar_sums(g, tokens, gn, live, GATES == "constant", EXCLUSIVE)
            decay = met if BACKWARD else total - b
            left *= tl.exp(decay.to(tl.float32))[:, None]
            keep = tl.exp(total.to(tl.float32))
        S = dot(tl.trans(left), right, S * keep, operand, PRECISION)
    if last_out is not None:
        tl.store(last_out + (row * H + head) * (D * E) + cells, S, mask=inside)
