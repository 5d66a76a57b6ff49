"""Every implementation against loops over pairs of tokens in float64, forward and every gradient."""

from dataclasses import replace

import pytest
import torch
from torch.autograd import gradcheck

from linzoo.kernels.local_attn import blocks

from .local_attn_cases import Case, attention, every, gradients, run, with_grad
from .tolerances import SIGNED, assert_close


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize("case", every(), ids=str)
def test_every_form_matches_the_loops_forward_and_every_gradient(case, backend):
    inputs = case.inputs()
    exact, own = with_grad(inputs), with_grad(inputs)
    wanted, got = attention(case, **exact), run(case, backend, **own)
    for name, a, b in zip(("y", "lse"), got, wanted, strict=True):
        assert_close(a, b, torch.float64, name)
    wanted_grads = gradients(*wanted, exact)
    for name, grad in gradients(*got, own).items():
        assert_close(grad, wanted_grads[name], torch.float64, f"d{name}", slack=10)


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in every(grid=(5, 4), B=1, H=1, D=3, E=2)
        if case.window in ("circle3.7", "rectangle") and case.q_rows in (None, (3, 3))
    ],
    ids=str,
)
def test_gradcheck_in_float64(case):
    case = replace(case, n_global=min(case.n_global, 2), extra=min(case.extra, 2))
    tensors = with_grad(case.inputs())
    names = list(tensors)
    assert gradcheck(
        lambda *xs: run(case, "eager", **dict(zip(names, xs, strict=True))),
        tuple(tensors.values()),
        fast_mode=True,
    )


SHAPES = [
    Case(grid=(1, 1), n_global=0),
    Case(grid=(1, 40), n_global=0, window="rectangle"),
    Case(grid=(33, 1), n_global=3),
    Case(grid=(8, 8), D=16, E=8),
    Case(grid=(9, 23), D=40, E=64, n_global=17, extra=6),
    Case(grid=(24, 16), D=64, E=64, n_global=40, H=3, B=1),
    Case(grid=(17, 9), D=128, E=32, n_global=1, B=1, global_first=False),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_sizes_and_dtypes_match_the_loops_with_gradients(case, dtype):
    case = replace(case, dtype=dtype)
    inputs = case.inputs()
    exact, own = with_grad({n: x.double() for n, x in inputs.items()}), with_grad(inputs)
    wanted, got = attention(case, **exact), run(case, "eager", **own)
    assert got[0].dtype == dtype and got[1].dtype == torch.float32
    assert_close(got[0], wanted[0], dtype, "y")
    assert_close(got[1], wanted[1], torch.float32, "lse")
    wanted_grads = gradients(*wanted, exact)
    if case.grid == (
        1,
        1,
    ):  # softmax of one key: the gradients of q and k are those of lse alone, no cancelling
        assert torch.allclose(got[0], own["v"])
    for name, grad in gradients(*got, own).items():
        assert grad.dtype == dtype
        assert_close(grad, wanted_grads[name], dtype, f"d{name}", slack=4)  # delta cancels part of dy . v


@pytest.mark.parametrize("room", [1, 3000, 40000])
@pytest.mark.parametrize("tile", [3, 8])
def test_the_size_of_blocks_and_tiles_does_not_change_the_result_or_gradients(room, tile, monkeypatch):
    case = Case(grid=(19, 21), H=3, extra=3)
    inputs = case.inputs()
    results = []
    for sizes in ((1 << 22, 8), (room, tile)):
        monkeypatch.setattr(blocks, "CPU_SCORES", sizes[0])
        monkeypatch.setattr(blocks, "TILE", sizes[1])
        own = with_grad(inputs)
        y, lse = run(case, "eager", **own)
        results.append({"y": y, "lse": lse, **gradients(y, lse, own)})
    for name, whole in results[0].items():
        assert_close(results[1][name], whole, torch.float64, name)


def test_the_reference_computes_in_float64_whatever_the_input():
    case = Case(dtype=torch.bfloat16, D=16, E=8, extra=4)
    inputs = case.inputs()
    y, lse = run(case, "reference", **inputs)
    exact = run(replace(case, dtype=torch.float64), "reference", **{n: x.double() for n, x in inputs.items()})
    assert torch.equal(y, exact[0].bfloat16()) and torch.equal(lse, exact[1].float())


def test_bfloat16_rounds_rather_than_truncates():
    case = Case(dtype=torch.bfloat16, grid=(40, 40), D=16, E=16, B=1)
    inputs = case.inputs()
    inputs["v"] = inputs["v"].abs()  # one sign: truncation would show as a shift
    got = run(case, "eager", **inputs)[0].double()
    wanted = run(case, "reference", **{n: x.double() for n, x in inputs.items()})[0]
    assert abs(((got - wanted).mean() / wanted.abs().mean()).item()) < SIGNED


@pytest.mark.parametrize("size", [30.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_large_scores_neither_overflow_nor_lose_digits(dtype, size):
    """Scores of hundreds: most weights underflow, and a hidden key may outweigh all that are seen."""
    case = Case(dtype=dtype, grid=(12, 12), D=16, E=8, extra=3)
    inputs = case.inputs(size)
    exact, own = with_grad({n: x.double() for n, x in inputs.items()}), with_grad(inputs)
    wanted, got = run(replace(case, dtype=torch.float64), "reference", **exact), run(case, "eager", **own)
    slack = size if dtype == torch.float32 else 10 * size  # scores are rounded relative to their size
    for a, b in zip(got, wanted, strict=True):
        assert_close(a, b, dtype, slack=slack)
    wanted_grads = gradients(*wanted, exact)
    for name, grad in gradients(*got, own).items():
        assert_close(grad, wanted_grads[name], dtype, f"d{name}", slack=4 * slack)


def test_scale_replaces_the_default():
    case = Case()
    inputs = case.inputs()
    for backend in ("eager", "reference"):
        for got, wanted in zip(
            run(case, backend, scale=0.3, **inputs), attention(case, scale=0.3, **inputs), strict=True
        ):
            assert_close(got, wanted, torch.float64, backend)
    assert not torch.allclose(run(case, "eager", **inputs)[0], run(case, "eager", scale=0.3, **inputs)[0])
