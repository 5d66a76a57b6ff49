"""Segment sums and gathers against loops in float64, with every gradient, and what holds of them always."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from linzoo.kernels import segment_gather, segment_sum
from linzoo.kernels.segment_ops import eager

from .tolerances import SIGNED, assert_close

CASES = [  # rows, segments, channels
    (1, 1, (3,)),
    (7, 3, ()),
    (40, 60, (5,)),
    (200, 11, (4, 3)),
    (200, 1, (17,)),
    (0, 4, (3,)),
    (0, 0, (3,)),
]


def made(rows: int, segments: int, channels: tuple, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows, and an index in no order that leaves the last segment and others empty."""
    index = torch.randint(max(segments - 1, 1), (rows,)) if segments else torch.empty(0, dtype=torch.int64)
    return torch.randn(rows, *channels).to(dtype).requires_grad_(), index


def by_loops(x: torch.Tensor, index: torch.Tensor, segments: int) -> torch.Tensor:
    sums = [x.new_zeros(x.shape[1:]) for _ in range(segments)]
    for row, g in zip(x, index.tolist(), strict=True):
        sums[g] = sums[g] + row
    return torch.stack(sums) if sums else x.new_zeros(0, *x.shape[1:]) + 0 * x.sum()


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize(("rows", "segments", "channels"), CASES)
def test_sums_equal_loops_and_their_gradient_is_a_gather(rows, segments, channels, backend):
    x, index = made(rows, segments, channels)
    got, wanted = segment_sum(x, index, segments, backend=backend), by_loops(x, index, segments)
    assert_close(got, wanted, torch.float64)
    dy = torch.randn_like(wanted)
    (grad,) = torch.autograd.grad(got, x, dy)
    assert torch.equal(grad, dy[index])


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize(("rows", "segments", "channels"), CASES)
def test_gathers_equal_indexing_and_their_gradient_is_a_sum(rows, segments, channels, backend):
    _, index = made(rows, segments, channels)
    x = torch.randn(segments, *channels, dtype=torch.float64, requires_grad=True)
    got = segment_gather(x, index, backend=backend)
    assert torch.equal(got, x[index])
    dy = torch.randn_like(got)
    (grad,) = torch.autograd.grad(got, x, dy)
    assert_close(grad, by_loops(dy, index, segments), torch.float64)


def test_gradcheck_to_the_second_order():
    x, index = made(9, 4, (2,))
    state = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    for check in (gradcheck, gradgradcheck):
        assert check(lambda x: segment_sum(x, index, 4).pow(3), (x,))
        assert check(lambda s: segment_gather(s, index).pow(3), (state,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes_are_added_up_in_float32_and_rounded_once(dtype):
    x, index = made(3000, 3, (5,), dtype)
    exact = by_loops(x.detach().double(), index, 3)
    got = segment_sum(x, index, 3)
    assert got.dtype == dtype
    assert_close(got, exact.to(dtype), torch.float32 if dtype == torch.float32 else dtype, slack=0.25)
    state = torch.randn(3, 5).to(dtype).requires_grad_()
    y = segment_gather(state, index)
    (grad,) = torch.autograd.grad(y, state, x.detach())
    assert y.dtype == grad.dtype == dtype
    assert torch.equal(grad, got)


def test_half_sums_do_not_saturate():
    ones = torch.ones(100_000, 1).bfloat16()
    assert (
        segment_sum(ones, torch.zeros(100_000, dtype=torch.int64), 1).item() == torch.tensor(1e5).bfloat16()
    )
    random = torch.rand(4096, 16).bfloat16()  # of one sign: truncation would show as a shift
    index = torch.arange(4096) % 512
    exact = by_loops(random.double(), index, 512)
    shift = (segment_sum(random, index, 512).double() - exact).mean() / exact.mean()
    assert abs(shift) < SIGNED


def test_a_sum_of_a_gather_counts_and_a_permuted_order_changes_nothing():
    x, index = made(50, 6, (3,))
    state = torch.randn(6, 3, dtype=torch.float64)
    counts = torch.bincount(index, minlength=6).double().unsqueeze(1)
    assert torch.allclose(segment_sum(segment_gather(state, index), index, 6), counts * state)
    order = torch.randperm(50)
    assert torch.allclose(segment_sum(x[order], index[order], 6), segment_sum(x, index, 6))


def test_the_form_for_gpus_that_sorts_rows_first_equals_the_one_for_cpus():
    for rows, segments, channels in CASES:
        x, index = made(rows, segments, channels)
        wanted = segment_sum(x, index, segments)
        got = eager._sum_of_runs(x, index, segments)
        assert_close(got, wanted, torch.float64)
        assert torch.equal(got, eager._sum_of_runs(x, index, segments))


def test_any_strides_are_taken_with_an_expanded_gradient():
    _, index = made(30, 4, ())
    x = torch.randn(3, 5, 30, dtype=torch.float64).permute(2, 1, 0).requires_grad_()
    y = segment_sum(x, index, 4)
    assert_close(y, by_loops(x, index, 4), torch.float64)
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    assert torch.equal(segment_gather(y[:, ::2].detach(), index), y[:, ::2][index])
