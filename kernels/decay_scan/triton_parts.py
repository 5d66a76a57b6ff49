"""Device functions of the scan's kernels: chunks of a row, sums of log decays, token-to-token weights.

A chunk is ``span`` neighbouring tokens in the order of the scan, seen as BN rows of which the rest is zero.
Sums of log decays per channel are matrices of zeros and ones times the log decays: every one is a sum over
the tokens between two others, none a difference, so every exponent is <= 0 where log decays are, and nothing
is lost beside a strong decay. Importing this file imports triton.
"""

import triton
import triton.language as tl

from ..linear_attn.triton_parts import dot, load_rows

# Sizes and strides, never specialised: a value of 1 or a multiple of 16 would be another variant.
INTEGERS = (*(name + axis for name in "xqkvgw" for axis in "bnh"), "N", "R", "span")
LEAST = tl.constexpr(-800.0)  # e^-800 is 0; sums of infinities times zero would be NaN


@triton.jit
def locate(tile, tile_row, tile_chunk, cu, N, span):
    """Row, batch item, chunk number, first token and number of tokens of the row that holds ``tile``."""
    if cu is None:
        per_row = tl.cdiv(N, span)
        row = (tile // per_row).to(tl.int64)
        batch = row
        chunk = tile % per_row
        start = 0
        length = N
    else:
        row = tl.load(tile_row + tile).to(tl.int64)
        batch = row * 0
        chunk = tl.load(tile_chunk + tile)
        start = tl.load(cu + row)
        length = tl.load(cu + row + 1) - start
    return row, batch, chunk, start, length


@triton.jit
def tokens_of(chunk, start, length, span, REVERSE: tl.constexpr, BN: tl.constexpr):
    """The token numbers of a chunk in the order of the scan, and which of them exist."""
    i = tl.arange(0, BN)
    position = chunk * span + i
    live = (i < span) & (position < length)
    tokens = start + length - 1 - position if REVERSE else start + position
    return tl.where(live, tokens, 0).to(tl.int64), live


@triton.jit
def load_keys(k, weight, tokens, kn, wn, d, live, D: tl.constexpr, ALIGN: tl.constexpr):
    """Keys times the exponentials of their log weights, float32."""
    key = load_rows(k, tokens, kn, d, live, D, ALIGN)
    if weight is not None:
        key *= tl.exp(tl.load(weight + tokens * wn, mask=live, other=0.0).to(tl.float32))[:, None]
    return key


@triton.jit
def load_values(v, tokens, vn, e, live, EV: tl.constexpr, COUNT: tl.constexpr, ALIGN: tl.constexpr):
    """Values (tokens, columns); COUNT adds one column of ones after the EV columns."""
    value = load_rows(v, tokens, vn, e, live, EV, ALIGN)
    if COUNT:
        value = tl.where((e == EV)[None, :], 1.0, value)
    return value


@triton.jit
def load_gates(g, tokens, gn, d, live, D: tl.constexpr, ALIGN: tl.constexpr):
    return tl.maximum(load_rows(g, tokens, gn, d, live, D, ALIGN), LEAST)


@triton.jit
def scalar_sums(g, tokens, gn, live, CONSTANT: tl.constexpr, EXCLUSIVE: tl.constexpr):
    """In float64, of decays that all channels share: sums up to each token, sums that its query has met, and
    the chunk's total.
    """
    if CONSTANT:
        x = tl.where(live, tl.load(g).to(tl.float64), 0.0)
    else:
        x = tl.load(g + tokens * gn, mask=live, other=0.0).to(tl.float64)
    x = tl.maximum(x, LEAST)
    b = tl.cumsum(x, 0)
    return b, b - x if EXCLUSIVE else b, tl.sum(x, 0)


@triton.jit
def scalar_weights(b, met, SYMMETRIC: tl.constexpr, BN: tl.constexpr):
    """(BN, BN) e^(what token j's key has met when token i reads it); 0 for later tokens and on the diagonal.

    Float64 sums are taken apart in two float32 numbers, whose differences keep float32's digits.
    """
    i = tl.arange(0, BN)[:, None]
    j = tl.arange(0, BN)[None, :]
    high = b.to(tl.float32)
    low = (b - high.to(tl.float64)).to(tl.float32)
    met_high = met.to(tl.float32)
    met_low = (met - met_high.to(tl.float64)).to(tl.float32)
    between = (met_high[:, None] - high[None, :]) + (met_low[:, None] - low[None, :])
    seen = i > j
    if SYMMETRIC:
        between = tl.where(seen, between, -between)
        seen = i != j
    return tl.exp(tl.where(seen, between, float("-inf")))


@triton.jit
def sums(ones, x, PARTS: tl.constexpr):
    """A matrix of zeros and ones times x, in float32: x is cut in PARTS bfloat16 parts, of 8 bits each."""
    total = tl.zeros([ones.shape[0], x.shape[1]], tl.float32)
    ones = ones.to(tl.float32)
    for _ in tl.static_range(PARTS):
        part = x.to(tl.bfloat16).to(tl.float32)
        total = dot(ones, part, total, tl.bfloat16, "ieee")
        x = x - part
    return total


@triton.jit
def before(i, m, EXCLUSIVE: tl.constexpr):
    """Whether the decay of token m is met by an entry state that token i reads."""
    return m < i if EXCLUSIVE else m <= i


@triton.jit
def to_middle(i, m, h, EXCLUSIVE: tl.constexpr):
    """Whether the decay of token m lies between token i and the middle of i's block of 2 h tokens."""
    right = ((i & h) != 0) & ((m & h) != 0) & before(i, m, EXCLUSIVE)
    left = ((i & h) == 0) & ((m & h) == 0) & (m > i)
    return ((i ^ m) < 2 * h) & (right | left)


@triton.jit
def across_middle(i, j, h):
    """Whether tokens i and j are in the right and the left half of one block of 2 h tokens."""
    return ((i ^ j) < 2 * h) & ((i & h) != 0) & ((j & h) == 0)


@triton.jit
def channel_scores(
    scores, query, key, gates,
    OPERAND: tl.constexpr, EXCLUSIVE: tl.constexpr, LEVELS: tl.constexpr, PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """scores + what queries and keys of a chunk make of earlier tokens, by blocks of 2, 4, ... BN tokens.

    A pair meets across the middle of the smallest block that holds both: e^(from the middle to i) times
    e^(from j to the middle).
    """
    rows = tl.arange(0, query.shape[0])
    for level in range(LEVELS):
        h = 1 << level
        factor = tl.exp(sums(to_middle(rows[:, None], rows[None, :], h, EXCLUSIVE), gates, PARTS))
        none = tl.zeros([query.shape[0], query.shape[0]], tl.float32)
        product = dot(query * factor, tl.trans(key * factor), none, OPERAND, PRECISION)
        scores += tl.where(across_middle(rows[:, None], rows[None, :], h), product, 0.0)
    return scores
