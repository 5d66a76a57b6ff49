"""Device functions of the scan's kernels: which tokens a program has, loads of a few tokens, one step.

A program has one chunk of SIZE steps of one row or segment and BC channels; its tiles are (BC, BS), padded
cells zero. Tokens that do not exist have delta = 0, which changes no state. A is in base 2: exp2 is what GPUs
have. Importing this file imports triton.
"""

import triton
import triton.language as tl

# Sizes and strides, never specialised: a value of 1 or a multiple of 16 would be another variant.
INTEGERS = (*(name + axis for name in "udwr" for axis in "bn"), "N", "n_states")
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def locate(slot, segment, first_slots, cu, N, n_states, SIZE: tl.constexpr, REVERSE: tl.constexpr):
    """Batch item, first token in the order of the scan and number of tokens of a chunk."""
    if segment is None:
        per_row = tl.cdiv(N, SIZE)
        batch = (slot // per_row).to(tl.int64)
        step = slot % per_row * SIZE
        start = slot * 0
        length = N
    else:
        state = tl.load(segment + slot)
        used = state < n_states  # more chunks are launched than segments may need
        state = tl.minimum(state, n_states - 1)
        batch = (state * 0).to(tl.int64)
        step = (slot - tl.load(first_slots + state)) * SIZE
        start = tl.load(cu + state)
        length = tl.where(used, tl.load(cu + state + 1) - start, 0)
    first = start + length - 1 - step if REVERSE else start + step
    return batch, first.to(tl.int64), tl.maximum(tl.minimum(length - step, SIZE), 0)


@triton.jit
def load_few(ptr, first, i, number, stride, columns, live, T: tl.constexpr, REVERSE: tl.constexpr):
    """Rows of T tokens from step ``i`` of the chunk on, as a tuple of float32 vectors, zero outside."""
    rows = ()
    for j in tl.static_range(T):
        token = first - (i + j) if REVERSE else first + (i + j)
        row = tl.load(ptr + token * stride + columns, mask=live & (i + j < number), other=0.0)
        rows += (row.to(tl.float32),)
    return rows


@triton.jit
def load_tile(ptr, c, s, C: tl.constexpr, S: tl.constexpr):
    return tl.load(ptr + c[:, None] * S + s[None, :], mask=(c < C)[:, None] & (s < S)[None, :], other=0.0)


@triton.jit
def store_tile(ptr, c, s, x, C: tl.constexpr, S: tl.constexpr):
    tl.store(ptr + c[:, None] * S + s[None, :], x, mask=(c < C)[:, None] & (s < S)[None, :])


@triton.jit
def step(h, u, delta, b, A):
    """The state (BC, BS) after one token."""
    return tl.exp2(delta[:, None] * A) * h + (delta * u)[:, None] * b[None, :]
