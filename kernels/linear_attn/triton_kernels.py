"""The four kernels of linear attention: state sums, their gradient, readout, its gradient.

Letters as in the reference: phi the feature map, R_j the rotation at token j, p = w phi(k).

    S = sum_j (R_j p_j) v_j^T      s = sum_j p_j      m = sum_j v_j      n = token count
    y_i = alpha(z_i) S^T R_i phi(q_i) + beta(z_i) m,   z_i = phi(q_i) . s

Rows are batch items, or segments of one packed row when ``cu`` is given. Strides of inputs count ALIGN elements.
No atomics: every program owns what it writes, so results do not depend on the order of execution.
"""

import triton
import triton.language as tl

from .triton_parts import (
    dot,
    feature,
    feature_slope,
    load_rows,
    load_state,
    load_vector,
    norm_terms,
    rotate,
    store_rows,
)


@triton.jit
def token_block(first, end, order, BN: tl.constexpr):
    """BN token numbers from position ``first``, and which of them exist."""
    position = first + tl.arange(0, BN)
    live = position < end
    if order is not None:
        position = tl.load(order + position, mask=live, other=0)
    return position.to(tl.int64), live


@triton.jit
def phi_block(x, tokens, stride, d, live, D: tl.constexpr, ALIGN: tl.constexpr, FEATURE: tl.constexpr):
    """x and phi(x) of a block; phi is zeroed after the feature map, for elu1(0) = 1."""
    x = load_rows(x, tokens, stride, d, live, D, ALIGN)
    return x, tl.where(live[:, None] & (d < D)[None, :], feature(x, FEATURE), 0.0)


@triton.jit
def accumulate_kernel(
    x, v, weight, mask, alpha, zeta, beta, cos, sin, cu, order, n_rows,
    S_out, s_out, m_out, n_out,
    xb, xn, xh, vb, vn, vh, wb, wn, wh, kb, kn, N, R, n_split,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, FEATURE: tl.constexpr, CENTERED: tl.constexpr,
    ALIGN: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Partial (S, s, m, n) of one split of one row and head, one D x E tile.

    As the reduction: x = k, with ``weight`` and ``mask``. As the readout's state gradient: x = q, v = dy, and
    the coefficients ``alpha``, ``zeta`` (dz), ``beta`` of (B, N, H) weigh S, s and m; S is then summed times n
    (``n_rows``) and divided at the end, so that alpha ~ 1 / n survives float16 operands.
    """
    split = tl.program_id(0) % n_split
    row = (tl.program_id(0) // n_split).to(tl.int64)
    head = tl.program_id(1)
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


@triton.jit
def locate(tile_row, tile_start, cu, N, SPAN: tl.constexpr):
    """Row, batch item, first and end position of this program's tokens (program axis 0)."""
    tile = tl.program_id(0)
    if tile_row is None:
        per_row = tl.cdiv(N, SPAN)
        row = (tile // per_row).to(tl.int64)
        batch = row
        first = tile % per_row * SPAN
        end = tl.minimum(first + SPAN, N)
    else:
        row = tl.load(tile_row + tile).to(tl.int64)
        batch = row * 0
        first = tl.load(tile_start + tile)
        end = tl.minimum(first + SPAN, tl.load(cu + row + 1))
    return row, batch, first, end


@triton.jit
def reduce_backward_kernel(
    dS, ds, dm, k, v, weight, mask, cos, sin, cu, tile_row, tile_start, s, m, n_rows,
    dk, dv, dweight,
    xb, xn, xh, vb, vn, vh, wb, wn, wh, kb, kn, N, R,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, FEATURE: tl.constexpr, CENTERED: tl.constexpr,
    ALIGN: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dp = R^-1 (dS v) + ds, dk = w dp phi'(k), dw = dp . phi(k), dv = dS^T (R p) + dm for BN tokens of a head.

    CENTERED states take v and p about their means (s / n, m / n) in the two products.
    """
    if tile_row is not None and tl.load(tile_row + tl.program_id(0)) >= R:
        return  # the tile list is padded to a length that needs no look at the data
    row, batch, first, end = locate(tile_row, tile_start, cu, N, BN)
    head = tl.program_id(1)
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


@triton.jit
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
    head = tl.program_id(1)
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
    S_tile = (load_state(S, d, e, D, E) / filled).to(operand)
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
    D: tl.constexpr, E: tl.constexpr, ALIGN: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """h = (S / n) dy for the key columns d, (BN, BD)."""
    h = tl.zeros([BN, BD], tl.float32)
    for e0 in range(0, E, BE):
        e = e0 + tl.arange(0, BE)
        g = load_rows(dy, tokens, vn, e, live, E, ALIGN)
        h = dot(g, tl.trans(load_state(S, d, e, D, E) / filled), h, dy.dtype.element_ty, PRECISION)
    return h


@triton.jit
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
    head = tl.program_id(1)
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
