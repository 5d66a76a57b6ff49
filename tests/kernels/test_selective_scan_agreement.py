"""Every implementation against sums over pairs of tokens in float64, forward and every gradient."""

from dataclasses import replace

import pytest
import torch
from torch.autograd import gradcheck

from linzoo.kernels.selective_scan import order

from .selective_cases import Case, by_pairs, every, gradients, run, with_grad
from .tolerances import SIGNED, assert_close


def agrees(case: Case, backend: str, slack: float = 1.0) -> None:
    inputs = case.inputs()
    exact, own = with_grad({n: x.double() for n, x in inputs.items()}), with_grad(inputs)
    wanted, got = by_pairs(case, exact), run(case, own, backend)
    assert got["y"].dtype == case.dtype
    assert got["state"].dtype == (torch.float64 if case.dtype == torch.float64 else torch.float32)
    for name, x in got.items():
        assert_close(x, wanted[name], case.dtype, name, slack)
    wanted_grads = gradients(wanted, exact)
    for name, grad in gradients(got, own).items():
        assert grad.dtype == inputs[name].dtype
        assert_close(grad, wanted_grads[name], case.dtype, f"d{name}", 4 * slack)


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize("case", every(), ids=str)
def test_every_form_matches_the_pairs_forward_and_every_gradient(case, backend):
    agrees(case, backend)


@pytest.mark.parametrize("case", every(N=6, C=2, S=2), ids=str)
def test_gradcheck_in_float64(case):
    case = replace(case, cu=case.cu and (0, 0, 4, 5, 6))
    tensors = with_grad(case.inputs())
    names = list(tensors)
    assert gradcheck(
        lambda *xs: tuple(run(case, dict(zip(names, xs, strict=True))).values()), tuple(tensors.values())
    )


SHAPES = [
    Case(N=1, C=1, S=1, rows=1),
    Case(N=65, C=40, S=16, initial=True),
    Case(N=100, C=8, S=3, rows=3, reverse=True, skip=False),
    Case(N=200, C=24, S=16, cu=(0, 7, 7, 72, 131, 200), reverse=True),
    Case(N=200, C=24, S=16, cu=(0, *range(120, 201)), initial=True),  # a long one and 80 of one token
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", SHAPES, ids=lambda case: f"N{case.N}-{case}")
def test_sizes_and_dtypes_match_the_pairs_with_gradients(case, dtype):
    agrees(replace(case, dtype=dtype), "eager")


@pytest.mark.parametrize("cu", [None, (0, 3, 3, 40, 41, 50)], ids=["rows", "segments"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(("chunk", "room"), [(1, 1 << 18), (7, 1 << 18), (7, 7 * 4 * 2), (64, 1), (3, 200)])
def test_the_size_of_chunks_and_of_temporaries_changes_nothing(chunk, room, reverse, cu, monkeypatch):
    """Small rooms: blocks of channels, and one lane at a time."""
    case = Case(N=50, C=5, reverse=reverse, cu=cu, initial=True)
    inputs = case.inputs()
    results = []
    for sizes in ((order.CHUNK, order.ROOM), (chunk, room)):
        monkeypatch.setattr(order, "CHUNK", sizes[0])
        monkeypatch.setattr(order, "ROOM", sizes[1])
        own = with_grad(inputs)
        out = run(case, own)
        results.append({**out, **gradients(out, own)})
    for name, whole in results[0].items():
        assert_close(results[1][name], whole, torch.float64, name)


def test_views_of_any_strides_are_read_as_they_are():
    case = Case(N=40, C=6, S=4, initial=True)
    inputs = case.inputs()
    views = {
        name: x.flip(0).flip(0)
        if x.dim() < 3
        else torch.stack((x, x), -1).transpose(0, 1)[..., 0].transpose(0, 1)
        for name, x in inputs.items()
    }
    assert not views["u"].is_contiguous() and views["u"].stride(-1) == 2
    a, b = with_grad(inputs), with_grad(views)
    whole, got = run(case, a), run(case, b)
    for name, x in got.items():
        assert torch.equal(x, whole[name]), name
    wanted = gradients(whole, a)
    for name, grad in gradients(got, b).items():
        assert torch.equal(grad, wanted[name]), name


def test_gradients_do_not_depend_on_what_the_forward_kept():
    """Under no_grad nothing is kept: the backward then computes the states between chunks again."""
    case = Case(N=150, initial=True)
    x = case.inputs()
    tensors = [*(x[name] for name in ("u", "delta", "A", "B", "C", "D", "initial")), None]
    y, state, kept = torch.ops.linzoo.selective_scan(*tensors, False, True, "eager")
    assert len(kept) == 2 * (149 // order.CHUNK)
    none = torch.ops.linzoo.selective_scan(*tensors, False, False, "eager")[2]
    assert none.shape == (0, *kept.shape[1:])
    both = (torch.ops.linzoo.selective_scan_bwd(y, state, k, *tensors, False, "eager") for k in (kept, none))
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))


def test_the_reference_computes_in_float64_whatever_the_input():
    case = Case(dtype=torch.bfloat16, initial=True)
    inputs = case.inputs()
    got = run(case, inputs, "reference")
    exact = run(replace(case, dtype=torch.float64), {n: x.double() for n, x in inputs.items()}, "reference")
    assert torch.equal(got["y"], exact["y"].bfloat16()) and torch.equal(got["state"], exact["state"].float())


def test_bfloat16_rounds_rather_than_truncates():
    case = Case(dtype=torch.bfloat16, N=300, C=32, S=4)
    inputs = {n: x if n == "A" else x.abs() for n, x in case.inputs().items()}  # one sign
    got, wanted = run(case, inputs)["y"].double(), by_pairs(case, inputs)["y"]
    assert abs(((got - wanted).mean() / wanted.abs().mean()).item()) < SIGNED


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("strength", [30.0, 3000.0])
def test_strong_decays_neither_overflow_nor_lose_digits(strength, dtype):
    agrees(Case(N=70, C=5, strength=strength, initial=True, dtype=dtype), "eager", slack=2)


def test_steps_of_zero_change_nothing_and_read_the_state():
    case = Case(N=40, initial=True, skip=False)
    x = case.inputs() | {"delta": torch.zeros(2, 40, 3, dtype=torch.float64)}
    out = run(case, x)
    assert torch.equal(out["state"], x["initial"])
    assert_close(out["y"], torch.einsum("bcs,bns->bnc", x["initial"], x["C"]), torch.float64)


def test_ten_thousand_tokens_keep_the_digits_of_float32():
    case = Case(N=10_000, C=2, S=2, rows=1, strength=0.01, dtype=torch.float32)
    x = case.inputs()
    exact = run(replace(case, dtype=torch.float64), {n: t.double() for n, t in x.items()})
    for name, got in run(case, x).items():
        assert_close(got, exact[name], torch.float32, name, slack=4)  # errors of 10,000 sums
