"""Kernels of the state sums: the sums, which are also the readout's state gradient, and their own gradient.

R_j is the rotation at token j, p = w phi(k); rows are batch items, or segments of one packed row.

    S = sum_j (R_j p_j) v_j^T      s = sum_j p_j      m = sum_j v_j      n = token count

Strides of inputs count ALIGN elements. No atomics: every program owns what it writes, so the result does not
depend on the order of execution.
"""

import triton
import triton.language as tl

from .triton_parts import (
    INTEGERS,
    dot,
    feature_slope,
    load_rows,
    load_state,
    load_vector,
    locate,
    phi_block,
    rotate,
    store_rows,
    token_block,
)


@triton.jit(do_not_specialize=INTEGERS)
def accumulate_kernel(
    x, v, weight, mask, alpha, zeta, beta, cos, sin, cu, order, n_rows,
    S_out, s_out, m_out, n_out,
    xb, xn, xh, vb, vn, vh, wb, wn, wh, kb, kn, N, R, n_split,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, FEATURE: tl.constexpr, CENTERED: tl.constexpr,
    ALIGN: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Partial (S, s, m, n) of one split of one row and head, one D x E tile.

    As the reduction: x = k, with ``weight`` and ``mask``. As the readout's state gradient: x = q, v = dy, and
    the coefficients ``alpha``, ``zeta`` (dz), ``beta`` (B, N, H) weigh S, s and m; S is then summed times n
    (``n_rows``) and divided at the end: alpha ~ 1 / n, and operands near one are far from any dtype's limits.
    """
    split = tl.program_id(0) % n_split
    row = (tl.program_id(0) // n_split).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    d = tl.program_id(2) // tl.cdiv(E, BE) * BD + tl.arange(0, BD)
    e = tl.program_id(2) % tl.cdiv(E, BE) * BE + tl.arange(0, BE)
    if cu is None:
        batch = row
        start = 0
        end = N
    else:
        batch = row * 0
        start = tl.load(cu + row)
        end = tl.load(cu + row + 1)
    span = tl.cdiv(tl.cdiv(end - start, BN), n_split) * BN
    start += split * span
    end = tl.minimum(start + span, end)
    x += (batch * xb + head * xh) * ALIGN
    v += (batch * vb + head * vh) * ALIGN
    n_state = 1.0
    if n_rows is not None:
        n_state = tl.maximum(tl.load(n_rows + row).to(tl.float32), 1.0)

    S = tl.zeros([BD, BE], tl.float32)
    s = tl.zeros([BD], tl.float32)  # means while CENTERED, sums otherwise
    m = tl.zeros([BE], tl.float32)
    n = 0.0
    for first in range(start, end, BN):
        tokens, live = token_block(first, end, order, BN)
        if mask is not None:
            live = live & (tl.load(mask + batch * kb + tokens * kn, mask=live, other=0) != 0)
        _, p = phi_block(x, tokens, xn, d, live, D, ALIGN, FEATURE)
        y = load_rows(v, tokens, vn, e, live, E, ALIGN)
        block_n = tl.sum(live.to(tl.float32), 0)
        if CENTERED:  # Chan's merge: the block about its own means, then the shift between the means
            p_mean = tl.sum(p, 0) / tl.maximum(block_n, 1.0)
            y_mean = tl.sum(y, 0) / tl.maximum(block_n, 1.0)
            p = tl.where(live[:, None], p - p_mean[None, :], 0.0)
            y = tl.where(live[:, None], y - y_mean[None, :], 0.0)
            share = block_n / tl.maximum(n + block_n, 1.0)
            S += ((p_mean - s) * (n * share))[:, None] * (y_mean - m)[None, :]
            s += (p_mean - s) * share
            m += (y_mean - m) * share
        elif alpha is not None:
            coefficient = (batch * N + tokens) * H + head
            s += tl.sum(p * tl.load(zeta + coefficient, mask=live, other=0.0)[:, None], 0)
            m += tl.sum(y * tl.load(beta + coefficient, mask=live, other=0.0)[:, None], 0)
            p = p * (tl.load(alpha + coefficient, mask=live, other=0.0) * n_state)[:, None]
        else:
            if weight is not None:
                w = tl.load(weight + batch * wb + tokens * wn + head * wh, mask=live, other=0.0)
                p = p * w.to(tl.float32)[:, None]
            s += tl.sum(p, 0)
            m += tl.sum(y, 0)
        p = rotate(p, cos, sin, tokens, d, live, D, False)
        S = dot(tl.trans(p), y, S, v.dtype.element_ty, PRECISION)
        n += block_n
    if CENTERED:
        s *= n
        m *= n
    if alpha is not None:
        S /= n_state

    cell = (split * R + row) * H + head
    inside = (d < D)[:, None] & (e < E)[None, :]
    tl.store(S_out + cell * (D * E) + d[:, None] * E + e[None, :], S, mask=inside)
    tl.store(s_out + cell * D + d, s, mask=(d < D) & (tl.program_id(2) % tl.cdiv(E, BE) == 0))
    tl.store(m_out + cell * E + e, m, mask=(e < E) & (tl.program_id(2) < tl.cdiv(E, BE)))
    if n_out is not None:
        tl.store(n_out + split * R + row, n, mask=(head == 0) & (tl.program_id(2) == 0))


@triton.jit(do_not_specialize=INTEGERS)
def reduce_backward_kernel(
    dS, ds, dm, k, v, weight, mask, cos, sin, cu, tile_row, tile_start, s, m, n_rows,
    dk, dv, dweight,
    xb, xn, xh, vb, vn, vh, wb, wn, wh, kb, kn, N, R,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, FEATURE: tl.constexpr, CENTERED: tl.constexpr,
    ALIGN: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dp = R^-1 (dS v) + ds, dk = w dp phi'(k), dw = dp . phi(k), dv = dS^T (R p) + dm of BN tokens.

    CENTERED states take v and p about their means (s / n, m / n) in the two products.
    """
    if tile_row is not None and tl.load(tile_row + tl.program_id(0)) >= R:
        return  # the tile list is padded to a length that needs no look at the data
    row, batch, first, end = locate(tile_row, tile_start, cu, N, BN)
    head = tl.program_id(1).to(tl.int64)
    tokens, live = token_block(first, end, None, BN)
    inside = live  # every token is written, masked ones as zero
    if mask is not None:
        live = live & (tl.load(mask + batch * kb + tokens * kn, mask=live, other=0) != 0)
    k += (batch * xb + head * xh) * ALIGN
    v += (batch * vb + head * vh) * ALIGN
    cell = row * H + head
    dS += cell * (D * E)
    operand: tl.constexpr = v.dtype.element_ty
    w = tl.full([BN], 1.0, tl.float32)
    if weight is not None:
        w = tl.load(weight + batch * wb + tokens * wn + head * wh, mask=live, other=0.0).to(tl.float32)
    per_token = 1.0
    if CENTERED:
        per_token = 1.0 / tl.maximum(tl.load(n_rows + row).to(tl.float32), 1.0)

    for e0 in range(0, E, BE):
        e = e0 + tl.arange(0, BE)
        grad_v = tl.zeros([BN, BE], tl.float32)
        for d0 in range(0, D, BD):
            d = d0 + tl.arange(0, BD)
            _, p = phi_block(k, tokens, xn, d, live, D, ALIGN, FEATURE)
            if CENTERED:
                p = p - load_vector(s + cell * D, d, D)[None, :] * per_token
            p = rotate(p * w[:, None], cos, sin, tokens, d, live, D, False)
            grad_v = dot(p, load_state(dS, d, e, D, E), grad_v, operand, PRECISION)
        grad_v = tl.where(live[:, None], grad_v + load_vector(dm + cell * E, e, E)[None, :], 0.0)
        store_rows(dv + (batch * N * H + head) * E, tokens, H * E, e, grad_v, inside, E)

    grad_w = tl.zeros([BN], tl.float32)
    for d0 in range(0, D, BD):
        d = d0 + tl.arange(0, BD)
        grad_p = tl.zeros([BN, BD], tl.float32)
        for e0 in range(0, E, BE):
            e = e0 + tl.arange(0, BE)
            y = load_rows(v, tokens, vn, e, live, E, ALIGN)
            if CENTERED:
                y = y - load_vector(m + cell * E, e, E)[None, :] * per_token
            grad_p = dot(y, tl.trans(load_state(dS, d, e, D, E)), grad_p, operand, PRECISION)
        grad_p = (
            rotate(grad_p, cos, sin, tokens, d, live, D, True) + load_vector(ds + cell * D, d, D)[None, :]
        )
        x, p = phi_block(k, tokens, xn, d, live, D, ALIGN, FEATURE)
        grad_w += tl.sum(grad_p * p, 1)
        grad_k = tl.where(live[:, None], grad_p * w[:, None] * feature_slope(x, FEATURE), 0.0)
        store_rows(dk + (batch * N * H + head) * D, tokens, H * D, d, grad_k, inside, D)
    if weight is not None:
        tl.store(dweight + (batch * N + tokens) * H + head, grad_w, mask=inside)
