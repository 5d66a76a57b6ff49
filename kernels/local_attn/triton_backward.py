"""The two backward kernels. No atomics: each program owns the queries, or the keys, whose gradient it writes.

p_ij = exp(s_ij - lse_i)      delta_i = y_i . dy_i - dlse_i      ds_ij = p_ij (dy_i . v_j - delta_i)
dq_i = scale sum_j ds_ij k_j      dk_j = scale sum_i ds_ij q_i      dv_j = sum_i p_ij dy_i
"""

import triton
import triton.language as tl

from ..linear_attn.triton_parts import dot
from .triton_parts import INTEGERS, in_window, load_operand, part_of, places, tiles_in_reach

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def pull(
    query, grad, lse, delta, k, v, kn, vn, tokens, live, seen, acc, scale, d, e,
    D: tl.constexpr, E: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """acc + ds k over one block of keys."""
    operand: tl.constexpr = k.dtype.element_ty
    key = load_operand(k, tokens, kn, d, live, D, ALIGN)
    value = load_operand(v, tokens, vn, e, live, E, ALIGN)
    none = tl.zeros([query.shape[0], key.shape[0]], tl.float32)
    scores = dot(query, tl.trans(key), none, operand, PRECISION) * scale
    p = tl.where(seen, tl.exp2(scores - lse[:, None]), 0.0)
    ds = p * (dot(grad, tl.trans(value), none, operand, PRECISION) - delta[:, None])
    return dot(ds, key, acc, operand, PRECISION)


@triton.jit(do_not_specialize=INTEGERS)
def query_gradient_kernel(
    q, k, v, extra_k, extra_v, y_in, dy, lse_in, dlse, dq_out, delta_out, scale, unit,
    qb, qn, qh, kb, kn, kh, vb, vn, vh, ab, an, ah, cb, cn, ch,
    rows, width, first, query_rows, reach_y, reach_x, limit, query_image, key_image,
    flat_start, flat_end, n_extra, block_start, block_end, out_start, n_out, n_queries, n_split,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, WINDOWED: tl.constexpr, CIRCLE: tl.constexpr,
    ALIGN: tl.constexpr, QY: tl.constexpr, QX: tl.constexpr, KY: tl.constexpr, KX: tl.constexpr,
    BD: tl.constexpr, BE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq of the queries that the forward kernel's program has, over the same keys, and their delta."""
    split = tl.program_id(0) % n_split
    block = tl.program_id(0) // n_split
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    d = tl.arange(0, BD)
    e = tl.arange(0, BE)
    q += (batch * qb + head * qh) * ALIGN
    k += (batch * kb + head * kh) * ALIGN
    v += (batch * vb + head * vh) * ALIGN
    if WINDOWED:
        across = tl.cdiv(width, QX)
        tile_y = block // across
        tile_x = block % across
        y, x, live = places(tile_y, tile_x, query_rows, width, QY, QX)
        place = y * width + x
        tokens = query_image + place
        y += first
    else:
        place = block * (QY * QX) + tl.arange(0, QY * QX)
        tokens = block_start + place
        live = tokens < block_end
    query = load_operand(q, tokens, qn, d, live, D, ALIGN)
    own = (batch * n_queries + tokens) * H + head
    base = (batch * n_queries * H + head) * E
    grad = load_operand(dy + base, tokens, H * E, e, live, E, 1)
    result = load_operand(y_in + base, tokens, H * E, e, live, E, 1)
    delta = tl.sum(grad.to(tl.float32) * result.to(tl.float32), 1)
    delta -= tl.load(dlse + own, mask=live, other=0.0)
    lse = tl.load(lse_in + own, mask=live, other=0.0) * LOG2E
    tl.store(delta_out + own, delta, mask=live & (split == 0))
    acc = tl.zeros([QY * QX, BD], tl.float32)

    if WINDOWED:
        low_y, number_y = tiles_in_reach(tile_y * QY + first, reach_y, rows, QY, KY)
        low_x, number_x = tiles_in_reach(tile_x * QX, reach_x, width, QX, KX)
        for i in range(number_y * number_x):
            key_y, key_x, there = places(low_y + i // number_x, low_x + i % number_x, rows, width, KY, KX)
            seen = in_window(y, x, key_y, key_x, reach_y, reach_x, limit, CIRCLE) & there[None, :]
            acc = pull(
                query, grad, lse, delta, k, v, kn, vn, key_image + key_y * width + key_x, there, seen, acc,
                scale, d, e, D, E, ALIGN, PRECISION,
            )  # fmt: skip
    start, end = part_of(flat_start, flat_end, split, n_split, KY * KX)
    for i in range(start, end, KY * KX):
        keys = i + tl.arange(0, KY * KX)
        acc = pull(
            query, grad, lse, delta, k, v, kn, vn, keys, keys < end, (keys < end)[None, :], acc,
            scale, d, e, D, E, ALIGN, PRECISION,
        )  # fmt: skip
    if extra_k is not None:
        extra_k += (batch * ab + head * ah) * ALIGN
        extra_v += (batch * cb + head * ch) * ALIGN
        for i in range(0, n_extra, KY * KX):
            keys = i + tl.arange(0, KY * KX)
            acc = pull(
                query, grad, lse, delta, extra_k, extra_v, an, cn, keys, keys < n_extra,
                (keys < n_extra)[None, :], acc, scale, d, e, D, E, ALIGN, PRECISION,
            )  # fmt: skip

    item = (split * tl.num_programs(2) + batch) * n_out + out_start
    cell = (item + place) * H + head
    inside = live[:, None] & (d < D)[None, :]
    tl.store(dq_out + cell[:, None] * D + d[None, :], (acc * unit).to(dq_out.dtype.element_ty), mask=inside)


@triton.jit
def push(
    key, value, q, dy, lse_in, delta_in, qn, tokens, live, seen, dk, dv, scale, d, e,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk + ds^T q and dv + p^T dy over one block of queries; pairs are (keys, queries) here."""
    operand: tl.constexpr = q.dtype.element_ty
    query = load_operand(q, tokens, qn, d, live, D, ALIGN)
    grad = load_operand(dy, tokens, H * E, e, live, E, 1)
    where = tokens.to(tl.int64) * H
    lse = tl.load(lse_in + where, mask=live, other=0.0) * LOG2E
    delta = tl.load(delta_in + where, mask=live, other=0.0)
    none = tl.zeros([key.shape[0], query.shape[0]], tl.float32)
    scores = dot(key, tl.trans(query), none, operand, PRECISION) * scale
    p = tl.where(seen, tl.exp2(scores - lse[None, :]), 0.0)
    dv = dot(p, grad, dv, operand, PRECISION)
    ds = p * (dot(value, tl.trans(grad), none, operand, PRECISION) - delta[None, :])
    return dot(ds, query, dk, operand, PRECISION), dv


@triton.jit(do_not_specialize=INTEGERS)
def key_gradient_kernel(
    q, k, v, dy, lse_in, delta_in, dk_out, dv_out, scale, unit,
    qb, qn, qh, kb, kn, kh, vb, vn, vh,
    rows, width, first, query_rows, reach_y, reach_x, limit, query_image, key_image,
    flat_start, flat_end, block_start, block_end, out_start, n_out, n_queries, n_split,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, WINDOWED: tl.constexpr, CIRCLE: tl.constexpr,
    ALIGN: tl.constexpr, QY: tl.constexpr, QX: tl.constexpr, KY: tl.constexpr, KX: tl.constexpr,
    BD: tl.constexpr, BE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk, dv of a rectangle of image keys (WINDOWED): the image queries that see them, then the queries
    flat_start .. flat_end - 1. Else of keys block_start .. block_end - 1: part of those queries.
    """
    split = tl.program_id(0) % n_split
    block = tl.program_id(0) // n_split
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    d = tl.arange(0, BD)
    e = tl.arange(0, BE)
    q += (batch * qb + head * qh) * ALIGN
    k += (batch * kb + head * kh) * ALIGN
    v += (batch * vb + head * vh) * ALIGN
    dy += (batch * n_queries * H + head) * E
    lse_in += batch * n_queries * H + head
    delta_in += batch * n_queries * H + head
    if WINDOWED:
        across = tl.cdiv(width, KX)
        tile_y = block // across
        tile_x = block % across
        y, x, live = places(tile_y, tile_x, rows, width, KY, KX)
        place = y * width + x
        tokens = key_image + place
    else:
        place = block * (KY * KX) + tl.arange(0, KY * KX)
        tokens = block_start + place
        live = tokens < block_end
    key = load_operand(k, tokens, kn, d, live, D, ALIGN)
    value = load_operand(v, tokens, vn, e, live, E, ALIGN)
    dk = tl.zeros([KY * KX, BD], tl.float32)
    dv = tl.zeros([KY * KX, BE], tl.float32)

    if WINDOWED:
        low_y, number_y = tiles_in_reach(tile_y * KY - first, reach_y, query_rows, KY, QY)
        low_x, number_x = tiles_in_reach(tile_x * KX, reach_x, width, KX, QX)
        for i in range(number_y * number_x):
            own_y, own_x, there = places(
                low_y + i // number_x, low_x + i % number_x, query_rows, width, QY, QX
            )
            seen = in_window(y, x, own_y + first, own_x, reach_y, reach_x, limit, CIRCLE) & there[None, :]
            dk, dv = push(
                key, value, q, dy, lse_in, delta_in, qn, query_image + own_y * width + own_x, there, seen,
                dk, dv, scale, d, e, H, D, E, ALIGN, PRECISION,
            )  # fmt: skip
    start, end = part_of(flat_start, flat_end, split, n_split, QY * QX)
    for i in range(start, end, QY * QX):
        queries = i + tl.arange(0, QY * QX)
        dk, dv = push(
            key, value, q, dy, lse_in, delta_in, qn, queries, queries < end, (queries < end)[None, :],
            dk, dv, scale, d, e, H, D, E, ALIGN, PRECISION,
        )  # fmt: skip

    item = (split * tl.num_programs(2) + batch) * n_out + out_start
    cell = (item + place) * H + head
    keep = live[:, None]
    dk = (dk * unit).to(dk_out.dtype.element_ty)
    tl.store(dk_out + cell[:, None] * D + d[None, :], dk, mask=keep & (d < D)[None, :])
    dv = dv.to(dv_out.dtype.element_ty)
    tl.store(dv_out + cell[:, None] * E + e[None, :], dv, mask=keep & (e < E)[None, :])
