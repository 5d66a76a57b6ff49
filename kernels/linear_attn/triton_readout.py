"""Kernels of the readout: y of every token; its gradient in q, with coefficients for the state's gradient.

    y_i = alpha(z_i) S^T R_i phi(q_i) + beta(z_i) m,   z_i = phi(q_i) . s

Strides of inputs count ALIGN elements; S enters dots as S / n, of the features' and values' size.
"""

import triton
import triton.language as tl

from .triton_parts import (
    INTEGERS,
    as_operand,
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


@triton.jit
def norm_terms(
    z, n, tau, scale, eps, cmin, NORM: tl.constexpr, EPS_MEAN: tl.constexpr, CENTERED: tl.constexpr
):
    """alpha, beta of y = alpha u + beta m, and their slopes in z; all zero for an empty state (n = 0)."""
    filled = tl.maximum(n, 1.0)
    zero = tl.zeros_like(z)
    beta = zero
    alpha_slope = zero
    beta_slope = zero
    if NORM == "sum":
        alpha = 1.0 / (z + (eps * filled if EPS_MEAN else eps))
        alpha_slope = -alpha * alpha
    elif NORM == "clamp":
        held = 1.0 / tl.maximum(z, cmin)
        alpha = tau * held
        alpha_slope = tl.where(z > cmin, -alpha * held, 0.0)
    elif NORM == "mag":
        tau = scale / filled
        inverse = 1.0 / (tau * z + eps)
        alpha = tau * (1.0 + inverse)
        beta = -tau * z / filled
        alpha_slope = -(tau * inverse) * (tau * inverse)
        beta_slope = zero - tau / filled
    else:  # sub
        tau = scale / filled
        alpha = zero + tau
        if CENTERED:  # the state holds the subtracted term already
            beta = zero + 1.0 / filled
        else:
            beta = (1.0 - tau * z) / filled
            beta_slope = zero - tau / filled
    live = n > 0.0
    return (
        tl.where(live, alpha, 0.0),
        tl.where(live, beta, 0.0),
        tl.where(live, alpha_slope, 0.0),
        tl.where(live, beta_slope, 0.0),
    )


@triton.jit(do_not_specialize=INTEGERS)
def readout_forward_kernel(
    q, S, s, m, n_rows, tau, cos, sin, cu, order, tile_row, tile_start, out,
    scale, eps, cmin, xb, xn, xh, N, R,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, FEATURE: tl.constexpr, NORM: tl.constexpr,
    EPS_MEAN: tl.constexpr, CENTERED: tl.constexpr, ALIGN: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
    BE: tl.constexpr, STEPS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y for STEPS blocks of BN tokens of a head, one tile of value columns; S enters the dot as S / n."""
    if tile_row is not None and tl.load(tile_row + tl.program_id(0)) >= R:
        return
    row, batch, start, end = locate(tile_row, tile_start, cu, N, BN * STEPS)
    head = tl.program_id(1).to(tl.int64)
    e = tl.program_id(2) * BE + tl.arange(0, BE)
    q += (batch * xb + head * xh) * ALIGN
    cell = row * H + head
    S += cell * (D * E)
    operand: tl.constexpr = q.dtype.element_ty
    n = tl.load(n_rows + row).to(tl.float32)
    filled = tl.maximum(n, 1.0)
    tau_head = 0.0
    if tau is not None:
        tau_head = tl.load(tau + head).to(tl.float32)
    d = tl.arange(0, BD)
    m_tile = load_vector(m + cell * E, e, E)
    s_tile = load_vector(s + cell * D, d, D)
    S_tile = as_operand(load_state(S, d, e, D, E) / filled, operand, PRECISION)
    for first in range(start, end, BN):
        tokens, live = token_block(first, end, order, BN)
        _, f = phi_block(q, tokens, xn, d, live, D, ALIGN, FEATURE)
        z = tl.sum(f * s_tile[None, :], 1)
        u = tl.zeros([BN, BE], tl.float32)
        u = dot(rotate(f, cos, sin, tokens, d, live, D, False), S_tile, u, operand, PRECISION)
        for d0 in range(BD, D, BD):
            more = d0 + tl.arange(0, BD)
            _, f = phi_block(q, tokens, xn, more, live, D, ALIGN, FEATURE)
            z += tl.sum(f * load_vector(s + cell * D, more, D)[None, :], 1)
            f = rotate(f, cos, sin, tokens, more, live, D, False)
            u = dot(f, load_state(S, more, e, D, E) / filled, u, operand, PRECISION)
        alpha, beta, _, _ = norm_terms(z, n, tau_head, scale, eps, cmin, NORM, EPS_MEAN, CENTERED)
        y = u * (alpha * filled)[:, None] + beta[:, None] * m_tile[None, :]
        store_rows(out + (batch * N * H + head) * E, tokens, H * E, e, y, live, E)


@triton.jit
def state_times_gradient(
    dy, S, tokens, vn, d, live, filled,
    D: tl.constexpr, E: tl.constexpr, ALIGN: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
    BE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """h = (S / n) dy for the key columns d, (BN, BD)."""
    h = tl.zeros([BN, BD], tl.float32)
    for e0 in range(0, E, BE):
        e = e0 + tl.arange(0, BE)
        g = load_rows(dy, tokens, vn, e, live, E, ALIGN)
        h = dot(g, tl.trans(load_state(S, d, e, D, E) / filled), h, dy.dtype.element_ty, PRECISION)
    return h


@triton.jit(do_not_specialize=INTEGERS)
def readout_backward_kernel(
    dy, q, S, s, m, n_rows, tau, cos, sin, cu, order, tile_row, tile_start,
    dq, alpha_out, zeta_out, beta_out, tau_out,
    scale, eps, cmin, xb, xn, xh, vb, vn, vh, N, R,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, FEATURE: tl.constexpr, NORM: tl.constexpr,
    EPS_MEAN: tl.constexpr, CENTERED: tl.constexpr, ALIGN: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
    BE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq of BN tokens of a head, and per token what the state's gradient needs: alpha, dz, beta (and dtau).

    h = S dy, dz = alpha' (R phi(q)) . h + beta' (m . dy), dq = [R^-1 (alpha h) + dz s] phi'(q).
    """
    if tile_row is not None and tl.load(tile_row + tl.program_id(0)) >= R:
        return
    row, batch, first, end = locate(tile_row, tile_start, cu, N, BN)
    head = tl.program_id(1).to(tl.int64)
    tokens, live = token_block(first, end, order, BN)
    q += (batch * xb + head * xh) * ALIGN
    dy += (batch * vb + head * vh) * ALIGN
    cell = row * H + head
    S += cell * (D * E)
    n = tl.load(n_rows + row).to(tl.float32)
    filled = tl.maximum(n, 1.0)
    tau_head = 0.0
    if tau is not None:
        tau_head = tl.load(tau + head).to(tl.float32)

    m_dy = tl.zeros([BN], tl.float32)
    if NORM == "mag" or (NORM == "sub" and not CENTERED):
        for e0 in range(0, E, BE):
            e = e0 + tl.arange(0, BE)
            g = load_rows(dy, tokens, vn, e, live, E, ALIGN)
            m_dy += tl.sum(g * load_vector(m + cell * E, e, E)[None, :], 1)

    d = tl.arange(0, BD)
    _, f = phi_block(q, tokens, xn, d, live, D, ALIGN, FEATURE)
    h = state_times_gradient(dy, S, tokens, vn, d, live, filled, D, E, ALIGN, BN, BD, BE, PRECISION)
    z = tl.sum(f * load_vector(s + cell * D, d, D)[None, :], 1)
    u_dy = tl.sum(rotate(f, cos, sin, tokens, d, live, D, False) * h, 1)
    for d0 in range(BD, D, BD):
        more = d0 + tl.arange(0, BD)
        _, f = phi_block(q, tokens, xn, more, live, D, ALIGN, FEATURE)
        part = state_times_gradient(dy, S, tokens, vn, more, live, filled, D, E, ALIGN, BN, BD, BE, PRECISION)
        z += tl.sum(f * load_vector(s + cell * D, more, D)[None, :], 1)
        u_dy += tl.sum(rotate(f, cos, sin, tokens, more, live, D, False) * part, 1)

    alpha, beta, alpha_slope, beta_slope = norm_terms(
        z, n, tau_head, scale, eps, cmin, NORM, EPS_MEAN, CENTERED
    )
    dz = alpha_slope * (u_dy * filled) + beta_slope * m_dy
    coefficient = (batch * N + tokens) * H + head
    tl.store(alpha_out + coefficient, alpha, mask=live)
    tl.store(zeta_out + coefficient, dz, mask=live)
    tl.store(beta_out + coefficient, beta, mask=live)
    if tau is not None:
        tl.store(tau_out + coefficient, u_dy * filled / tl.maximum(z, cmin), mask=live)

    for d0 in range(0, D, BD):
        d = d0 + tl.arange(0, BD)
        if D > BD:  # h of one tile is still at hand otherwise
            h = state_times_gradient(dy, S, tokens, vn, d, live, filled, D, E, ALIGN, BN, BD, BE, PRECISION)
        grad = rotate(h * (alpha * filled)[:, None], cos, sin, tokens, d, live, D, True)
        grad += dz[:, None] * load_vector(s + cell * D, d, D)[None, :]
        x, _ = phi_block(q, tokens, xn, d, live, D, ALIGN, FEATURE)
        store_rows(
            dq + (batch * N * H + head) * D, tokens, H * D, d, grad * feature_slope(x, FEATURE), live, D
        )
