"""The kernel of segment sums: every program adds up one run of rows. No atomics: same input, same bits."""

import triton
import triton.language as tl


@triton.jit
def run_sum_kernel(
    x, order, first, last, y_out,
    C: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """y_out (runs, C): sum of rows order[first .. last - 1] of x (., C), or of those rows themselves."""
    run = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    start = tl.load(first + run)
    end = tl.load(last + run)
    total = tl.zeros([BC], tl.float32)
    for block in range(start, end, BR):
        position = block + tl.arange(0, BR)
        live = position < end
        rows = position.to(tl.int64)
        if order is not None:
            rows = tl.load(order + position, mask=live, other=0)
        inside = live[:, None] & (c < C)[None, :]
        values = tl.load(x + rows[:, None] * C + c[None, :], mask=inside, other=0.0)
        total += tl.sum(values.to(tl.float32), 0)
    tl.store(y_out + run * C + c, total.to(y_out.dtype.element_ty), mask=c < C)
