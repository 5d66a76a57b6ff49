"""Every implementation of the scan against matrices in float64, forward and every gradient."""

import pytest
import torch
from torch.autograd import gradcheck

from linzoo.kernels.decay_scan import tiles

from .cases import with_grad
from .decay_cases import FORMS, KINDS, Case, by_matrices, every, gradients, run
from .tolerances import SIGNED, assert_close

ALLOWED = [
    (form, kind)
    for form in FORMS
    for kind in KINDS
    if not (form == "symmetric" and kind != "constant") and not (form == "max" and kind == "channel")
]


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize("case", every(), ids=str)
def test_every_form_matches_the_matrices_forward_and_every_gradient(case, backend):
    inputs, options = case.inputs(), case.options()
    exact, own = with_grad(inputs), with_grad(inputs)
    wanted, got = by_matrices(exact, **options), run(own, **options, backend=backend)
    assert got.keys() == wanted.keys()
    for name, x in wanted.items():
        assert_close(got[name], x, torch.float64, name)
    wanted_grads = gradients(wanted, exact)
    for name, grad in gradients(got, own).items():
        assert_close(grad, wanted_grads[name], torch.float64, f"d{name}", slack=10)


@pytest.mark.parametrize("cu", [None, (0, 0, 4, 7)], ids=["rows", "segments"])
@pytest.mark.parametrize(("form", "kind"), ALLOWED)
def test_gradcheck_in_float64(form, kind, cu):
    case = Case(form=form, kind=kind, initial=True, cu=cu, B=1, N=7, H=1, reverse=form == "rwkv")
    tensors, options = with_grad(case.inputs()), case.options()
    names = list(tensors)

    def call(*xs):
        return tuple(run(dict(zip(names, xs, strict=True)), **options, chunk=2, backend="eager").values())

    assert gradcheck(call, tuple(tensors.values()), fast_mode=True)


@pytest.mark.parametrize("chunk", [1, 2, 3, 8, 16, 1000])
@pytest.mark.parametrize("cu", [None, (0, 40, 41, 41, 100)], ids=["rows", "segments"])
@pytest.mark.parametrize(("form", "kind"), ALLOWED)
def test_the_chunk_does_not_change_results_or_gradients(form, kind, cu, chunk):
    case = Case(form=form, kind=kind, cu=cu, N=100, initial=True, reverse=chunk == 3)
    inputs, options = case.inputs(), case.options()
    one, other = with_grad(inputs), with_grad(inputs)
    wanted, got = run(one, **options, chunk=32), run(other, **options, chunk=chunk)
    for name, x in wanted.items():
        assert_close(got[name], x, torch.float64, name)
    wanted_grads = gradients(wanted, one)
    for name, grad in gradients(got, other).items():
        assert_close(grad, wanted_grads[name], torch.float64, f"d{name}", slack=10)


@pytest.mark.parametrize("elements", [1, 300, 2000])
@pytest.mark.parametrize("cu", [None, (0, 0, 3, 3, 40, 41, 70, 100, 100)], ids=["rows", "segments"])
@pytest.mark.parametrize(("form", "kind"), ALLOWED)
def test_how_many_tiles_and_states_are_taken_at_a_time_does_not_matter(form, kind, cu, elements, monkeypatch):
    case = Case(form=form, kind=kind, cu=cu, B=3, N=100, initial=True, reverse=elements == 300)
    inputs, options = case.inputs(), case.options()
    one, other = with_grad(inputs), with_grad(inputs)
    wanted = run(one, **options)
    wanted_grads = gradients(wanted, one)
    monkeypatch.setattr(tiles, "CACHE_ELEMENTS", elements)
    got = run(other, **options, chunk=8)
    for name, x in wanted.items():
        assert_close(got[name], x, torch.float64, name)
    for name, grad in gradients(got, other).items():
        assert_close(grad, wanted_grads[name], torch.float64, f"d{name}", slack=10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("n", [1, 7, 64, 65, 130], ids="N{}".format)
@pytest.mark.parametrize("dims", [(8, 8), (16, 24), (40, 40), (64, 32)], ids=str)
def test_sizes_and_dtypes_match_the_matrices(dims, n, dtype):
    for form, kind in (("plain", "constant"), ("rwkv", "channel"), ("plain", "token")):
        case = Case(form=form, kind=kind, B=1, N=n, D=dims[0], E=dims[1], dtype=dtype, initial=True)
        inputs, options = case.inputs(), case.options()
        got, wanted = run(inputs, **options), by_matrices(inputs, **options)
        assert (got["o"].dtype, got["S"].dtype) == (dtype, torch.float32)
        assert_close(got["o"], wanted["o"], dtype, form)
        assert_close(got["S"], wanted["S"], torch.float32, form)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cu", [None, (0, 0, 70, 71, 130)], ids=["rows", "segments"])
@pytest.mark.parametrize(("form", "kind"), ALLOWED)
def test_every_form_matches_the_matrices_in_every_dtype_with_gradients(form, kind, cu, dtype):
    case = Case(form=form, kind=kind, N=130, D=16, E=24, B=1, cu=cu, dtype=dtype, initial=True)
    inputs, options = case.inputs(), case.options()
    exact, own = with_grad({name: x.double() for name, x in inputs.items()}), with_grad(inputs)
    wanted, got = by_matrices(exact, **options), run(own, **options)
    slack = 4 if form == "max" else 1  # num and den both cancel
    assert_close(got["o"], wanted["o"], dtype, "o", slack=slack)
    wanted_grads = gradients(wanted, exact)
    for name, grad in gradients(got, own).items():
        assert grad.dtype == inputs[name].dtype
        assert_close(grad, wanted_grads[name], dtype, f"d{name}", slack=4 * slack)


def test_bfloat16_rounds_rather_than_truncates():
    case = Case(kind="token", strength=0.1, N=130, H=4, D=32, E=32, B=4, dtype=torch.bfloat16)
    inputs, options = case.inputs(), case.options()
    inputs = {name: x if name == "log_decay" else x.abs() for name, x in inputs.items()}  # one sign
    got, wanted = run(inputs, **options)["o"].double(), by_matrices(inputs, **options)["o"]
    assert abs(((got - wanted).mean() / wanted.abs().mean()).item()) < SIGNED


DECAYS = {
    "zero": lambda u: 0 * u,
    "gentle": lambda u: -0.05 * u,
    "usual": lambda u: -u,
    "firm": lambda u: -3 * u,  # of tiles of 32 tokens the halves are within range, not the whole
    "strong": lambda u: -30 * u,
    "fifty": lambda u: 0 * u - 50,
    "mixed": lambda u: torch.where(u < 0.1, -50.0, -0.02 * u),
    "resets": lambda u: torch.where(u < 0.1, -torch.inf, -0.02 * u),
}


@pytest.mark.parametrize("strength", DECAYS)
@pytest.mark.parametrize(("form", "kind"), ALLOWED)
def test_decays_from_none_to_a_reset_cost_no_digits_and_are_never_infinite(form, kind, strength):
    """The gradient of the log decays too, however small it is."""
    case = Case(form=form, kind=kind, N=100, D=16, E=8, B=1, dtype=torch.float32)
    inputs, options = case.inputs(), case.options()
    inputs["log_decay"] = DECAYS[strength](inputs["log_decay"].abs())
    exact, own = with_grad({name: x.double() for name, x in inputs.items()}), with_grad(inputs)
    wanted, got = run(exact, **options, backend="reference"), run(own, **options)
    slack = 20 if form == "max" else 1  # without decay long sums of either sign are divided by each other
    for name, x in wanted.items():
        assert_close(got[name], x, torch.float32, name, slack=slack)
    wanted_grads = gradients(wanted, exact)
    for name, grad in gradients(got, own).items():
        assert grad.isfinite().all(), name
        assert_close(grad, wanted_grads[name], torch.float32, f"d{name}", slack=4 * slack)
