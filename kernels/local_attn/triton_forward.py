"""The forward kernel: y and lse of a block of queries, by softmax over one block of keys after another."""

import triton
import triton.language as tl

from ..linear_attn.triton_parts import dot
from .triton_parts import INTEGERS, in_window, load_operand, part_of, places, tiles_in_reach

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def attend(
    query, k, v, kn, vn, tokens, live, seen, top, total, acc, scale, d, e,
    D: tl.constexpr, E: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Takes one block of keys into the running maximum, sum and weighted values."""
    operand: tl.constexpr = k.dtype.element_ty
    key = load_operand(k, tokens, kn, d, live, D, ALIGN)
    none = tl.zeros([query.shape[0], key.shape[0]], tl.float32)
    scores = dot(query, tl.trans(key), none, operand, PRECISION) * scale
    scores = tl.where(seen, scores, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, 1))
    shift = tl.where(higher == float("-inf"), 0.0, higher)  # nothing seen yet
    p = tl.exp2(scores - shift[:, None])
    kept = tl.exp2(top - shift)
    value = load_operand(v, tokens, vn, e, live, E, ALIGN)
    acc = dot(p, value, acc * kept[:, None], operand, PRECISION)
    return higher, total * kept + tl.sum(p, 1), acc


@triton.jit(do_not_specialize=INTEGERS)
def forward_kernel(
    q, k, v, extra_k, extra_v, y_out, lse_out, scale,
    qb, qn, qh, kb, kn, kh, vb, vn, vh, ab, an, ah, cb, cn, ch,
    rows, width, first, query_rows, reach_y, reach_x, limit, query_image, key_image,
    flat_start, flat_end, n_extra, block_start, block_end, out_start, n_out, n_split,
    H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, WINDOWED: tl.constexpr, CIRCLE: tl.constexpr,
    ALIGN: tl.constexpr, QY: tl.constexpr, QX: tl.constexpr, KY: tl.constexpr, KX: tl.constexpr,
    BD: tl.constexpr, BE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A rectangle of image queries (WINDOWED): their windows, then keys flat_start .. flat_end - 1, then
    extra keys. Else queries block_start .. block_end - 1: part of the keys flat_start .. flat_end - 1.
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
    top = tl.full([QY * QX], float("-inf"), tl.float32)
    total = tl.zeros([QY * QX], tl.float32)
    acc = tl.zeros([QY * QX, BE], tl.float32)

    if WINDOWED:
        low_y, number_y = tiles_in_reach(tile_y * QY + first, reach_y, rows, QY, KY)
        low_x, number_x = tiles_in_reach(tile_x * QX, reach_x, width, QX, KX)
        for i in range(number_y * number_x):
            key_y, key_x, there = places(low_y + i // number_x, low_x + i % number_x, rows, width, KY, KX)
            seen = in_window(y, x, key_y, key_x, reach_y, reach_x, limit, CIRCLE) & there[None, :]
            top, total, acc = attend(
                query, k, v, kn, vn, key_image + key_y * width + key_x, there, seen, top, total, acc, scale,
                d, e, D, E, ALIGN, PRECISION,
            )  # fmt: skip
    start, end = part_of(flat_start, flat_end, split, n_split, KY * KX)
    for i in range(start, end, KY * KX):
        keys = i + tl.arange(0, KY * KX)
        top, total, acc = attend(
            query, k, v, kn, vn, keys, keys < end, (keys < end)[None, :], top, total, acc, scale,
            d, e, D, E, ALIGN, PRECISION,
        )  # fmt: skip
    if extra_k is not None:
        extra_k += (batch * ab + head * ah) * ALIGN
        extra_v += (batch * cb + head * ch) * ALIGN
        for i in range(0, n_extra, KY * KX):
            keys = i + tl.arange(0, KY * KX)
            top, total, acc = attend(
                query, extra_k, extra_v, an, cn, keys, keys < n_extra, (keys < n_extra)[None, :],
                top, total, acc, scale, d, e, D, E, ALIGN, PRECISION,
            )  # fmt: skip

    acc = acc / tl.where(total > 0.0, total, 1.0)[:, None]  # a part without keys: 0, lse -inf
    lse = (top + tl.log2(total)) * LN2
    item = (split * tl.num_programs(2) + batch) * n_out + out_start
    cell = (item + place) * H + head
    inside = live[:, None] & (e < E)[None, :]
    tl.store(y_out + cell[:, None] * E + e[None, :], acc.to(y_out.dtype.element_ty), mask=inside)
    tl.store(lse_out + cell, lse, mask=live)
