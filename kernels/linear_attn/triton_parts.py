"""Device functions of the kernels: token numbers, tile loads, feature maps, rotation, guarded dot.

Importing this file imports triton, and the interpreter is chosen (or not) at that moment: TRITON_INTERPRET=1
has to be in the environment before. All arithmetic is float32; only dot operands and outputs are rounded.
"""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))

# Sizes and strides: Triton would compile another variant where one of them is 1 or a multiple of 16. Rows,
# tokens and splits often are and often are not, so that half of the variants would never have been measured.
INTEGERS = ("xb", "xn", "xh", "vb", "vn", "vh", "wb", "wn", "wh", "kb", "kn", "N", "R", "n_split")


@triton.jit
def as_operand(x, INPUT: tl.constexpr, PRECISION: tl.constexpr):
    """float32 x as dots of INPUT tensors take it: in bfloat16, or else in float32.

    Not in float16 for float16 inputs: weights times features and S / n leave its range. tf32 has its digits
    and float32's range, but the hardware truncates where this rounds.
    """
    if tl.bfloat16 == INPUT:
        x = x.to(tl.bfloat16)
    elif PRECISION == "tf32" and not INTERPRETED:
        x = tl.inline_asm_elementwise(
            "cvt.rna.tf32.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return x


@triton.jit
def dot(a, b, acc, INPUT: tl.constexpr, PRECISION: tl.constexpr):
    """acc + a b with operands rounded as INPUT tensors have them and float32 sums."""
    a = as_operand(a, INPUT, PRECISION)
    b = as_operand(b, INPUT, PRECISION)
    if INTERPRETED and tl.bfloat16 == INPUT:  # the interpreter multiplies bfloat16 bit patterns as integers
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def load_rows(ptr, tokens, stride, columns, live, WIDTH: tl.constexpr, ALIGN: tl.constexpr):
    """(tokens, columns) as float32, zero outside; ``stride`` counts ALIGN elements: alignment is known."""
    offsets = tokens[:, None] * stride * ALIGN + columns[None, :]
    inside = live[:, None] & (columns < WIDTH)[None, :]
    return tl.load(ptr + offsets, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def store_rows(ptr, tokens, stride, columns, value, live, WIDTH: tl.constexpr):
    offsets = tokens[:, None] * stride + columns[None, :]
    inside = live[:, None] & (columns < WIDTH)[None, :]
    tl.store(ptr + offsets, value.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def load_vector(ptr, columns, WIDTH: tl.constexpr):
    return tl.load(ptr + columns, mask=columns < WIDTH, other=0.0)


@triton.jit
def load_state(ptr, d, e, D: tl.constexpr, E: tl.constexpr):
    """Tile (d, e) of one head's D x E state."""
    inside = (d < D)[:, None] & (e < E)[None, :]
    return tl.load(ptr + d[:, None] * E + e[None, :], mask=inside, other=0.0)


@triton.jit
def feature(x, FEATURE: tl.constexpr):
    if FEATURE == "elu1":
        x = tl.exp(tl.minimum(x, 0.0)) + tl.maximum(x, 0.0)  # elu(x) + 1 without expm1, cannot overflow
    elif FEATURE == "relu":
        x = tl.maximum(x, 0.0)
    return x


@triton.jit
def feature_slope(x, FEATURE: tl.constexpr):
    if FEATURE == "elu1":
        slope = tl.exp(tl.minimum(x, 0.0))
    elif FEATURE == "relu":
        slope = tl.where(x > 0.0, 1.0, 0.0)
    else:
        slope = tl.full(x.shape, 1.0, tl.float32)
    return slope


@triton.jit
def quarter_turn(x):
    """Pairs (x0, x1) of the last axis become (-x1, x0)."""
    rows: tl.constexpr = x.shape[0]
    columns: tl.constexpr = x.shape[1]
    even, odd = tl.split(tl.reshape(x, [rows, columns // 2, 2]))
    return tl.reshape(tl.join(-odd, even), [rows, columns])


@triton.jit
def rotate(x, cos_ptr, sin_ptr, tokens, d, live, D: tl.constexpr, INVERSE: tl.constexpr):
    """The rotation of each token's pairs; INVERSE applies its transpose, which is what gradients need."""
    if cos_ptr is not None:
        cos = load_rows(cos_ptr, tokens, D, d, live, D, 1)
        sin = load_rows(sin_ptr, tokens, D, d, live, D, 1)
        x = x * cos - quarter_turn(x * sin) if INVERSE else x * cos + quarter_turn(x) * sin
    return x


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
