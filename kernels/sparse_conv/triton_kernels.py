"""Device kernels of the sparse convolutions: rows by table, weight gradients by pair lists.

Importing this file imports triton. No atomics: every program owns what it writes, so the result does not
depend on the order of execution.
"""

import triton
import triton.language as tl

from ..linear_attn.triton_parts import dot

INTEGERS = ("n_rows", "n_split")  # sizes that would otherwise make a variant where they are 1 or divide by 16


@triton.jit
def load_rows(x, rows, columns, live, WIDTH: tl.constexpr):
    """x[rows, columns] of a contiguous (., WIDTH) tensor, as it is, zero where not ``live``."""
    inside = live[:, None] & (columns < WIDTH)[None, :]
    return tl.load(x + rows.to(tl.int64)[:, None] * WIDTH + columns[None, :], mask=inside, other=0.0)


@triton.jit
def table_rows(table, n_rows, K: tl.constexpr, BM: tl.constexpr):
    """This program's columns of the table, which of them exist, and the output row of each."""
    column = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    live = column < n_rows
    outputs = tl.load(table + K * n_rows.to(tl.int64) + column, mask=live, other=0)
    return column, live, outputs


@triton.jit
def table_sources(table, column, live, n_rows, k):
    """Input row of each column in kernel cell k, -1 for none."""
    return tl.load(table + k * n_rows.to(tl.int64) + column, mask=live, other=-1)


@triton.jit(do_not_specialize=INTEGERS)
def conv_kernel(
    x, weight, bias, table, y_out, n_rows,
    K: tl.constexpr, C: tl.constexpr, N: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y_out[o, n] = bias[n] + sum over k, c of x[source(o, k), c] weight[k, c, n]; BM outputs, BN columns."""
    column, live, outputs = table_rows(table, n_rows, K, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros([BM, BN], tl.float32)
    for k in range(K):
        sources = table_sources(table, column, live, n_rows, k)
        there = sources >= 0
        if tl.max(there.to(tl.int32), 0) > 0:
            for c0 in range(0, C, BC):
                c = c0 + tl.arange(0, BC)
                rows = load_rows(x, sources, c, there, C)
                own = load_rows(weight, k * C + c, n, c < C, N)
                total = dot(rows, own, total, x.dtype.element_ty, PRECISION)
    if bias is not None:
        total += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    inside = live[:, None] & (n < N)[None, :]
    tl.store(
        y_out + outputs.to(tl.int64)[:, None] * N + n[None, :], total.to(y_out.dtype.element_ty), mask=inside
    )


@triton.jit
def pair_range(offsets, n_split, BP: tl.constexpr):
    """(kernel cell, part, first pair, last pair + 1) of this program: an equal share of the cell's pairs."""
    k = tl.program_id(0) // n_split
    part = tl.program_id(0) % n_split
    first = tl.load(offsets + k)
    end = tl.load(offsets + k + 1)
    span = tl.cdiv(tl.cdiv(end - first, BP), n_split) * BP
    first += part * span
    return k, part, first, tl.minimum(first + span, end)


@triton.jit(do_not_specialize=INTEGERS)
def weight_gradient_kernel(
    x, dy, inputs, outputs, offsets, parts_out, n_split,
    K: tl.constexpr, C: tl.constexpr, N: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """parts_out[part, k, c, n] = sum over a part of cell k's pairs (i, o) of x[i, c] dy[o, n]."""
    k, part, first, end = pair_range(offsets, n_split, BM)
    c = tl.program_id(1) // tl.cdiv(N, BN) * BC + tl.arange(0, BC)
    n = tl.program_id(1) % tl.cdiv(N, BN) * BN + tl.arange(0, BN)
    total = tl.zeros([BC, BN], tl.float32)
    for block in range(first, end, BM):
        pair = block + tl.arange(0, BM)
        live = pair < end
        rows = load_rows(x, tl.load(inputs + pair, mask=live, other=0), c, live, C)
        grads = load_rows(dy, tl.load(outputs + pair, mask=live, other=0), n, live, N)
        total = dot(tl.trans(rows), grads, total, x.dtype.element_ty, PRECISION)
    cell = (part * K + k).to(tl.int64) * (C * N)
    inside = (c < C)[:, None] & (n < N)[None, :]
    tl.store(parts_out + cell + c[:, None] * N + n[None, :], total, mask=inside)


@triton.jit(do_not_specialize=INTEGERS)
def depthwise_kernel(
    x, weight, table, y_out, n_rows,
    K: tl.constexpr, C: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """y_out[o, c] = sum over k of x[source(o, k), c] weight[k, c]; BM outputs, BC channels."""
    column, live, outputs = table_rows(table, n_rows, K, BM)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    total = tl.zeros([BM, BC], tl.float32)
    for k in range(K):
        sources = table_sources(table, column, live, n_rows, k)
        rows = load_rows(x, sources, c, sources >= 0, C).to(tl.float32)
        total += rows * tl.load(weight + k * C + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    inside = live[:, None] & (c < C)[None, :]
    tl.store(
        y_out + outputs.to(tl.int64)[:, None] * C + c[None, :], total.to(y_out.dtype.element_ty), mask=inside
    )


@triton.jit(do_not_specialize=INTEGERS)
def depthwise_weight_gradient_kernel(
    x, dy, inputs, outputs, offsets, parts_out, n_split,
    K: tl.constexpr, C: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """parts_out[part, k, c] = sum over a part of cell k's pairs (i, o) of x[i, c] dy[o, c]."""
    k, part, first, end = pair_range(offsets, n_split, BM)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    total = tl.zeros([BC], tl.float32)
    for block in range(first, end, BM):
        pair = block + tl.arange(0, BM)
        live = pair < end
        rows = load_rows(x, tl.load(inputs + pair, mask=live, other=0), c, live, C).to(tl.float32)
        grads = load_rows(dy, tl.load(outputs + pair, mask=live, other=0), c, live, C).to(tl.float32)
        total += tl.sum(rows * grads, 0)
    tl.store(parts_out + (part * K + k).to(tl.int64) * C + c, total, mask=c < C)
