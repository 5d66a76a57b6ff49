"""Every implementation of the scan against gradient descent in float64, forward and every gradient."""

import pytest
import torch
from torch.autograd import gradcheck

from linzoo.kernels.decay_scan import tiles

from .cases import with_grad
from .tolerances import assert_close
from .ttt_cases import Case, by_descent, every, gradients, run

CU = (0, 0, 3, 3, 40, 41, 70, 100, 100)


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize("case", every(), ids=str)
def test_every_form_is_gradient_descent_forward_and_every_gradient(case, backend):
    inputs, options = case.inputs(), case.options()
    exact, own = with_grad(inputs), with_grad(inputs)
    wanted, got = by_descent(exact, **options), run(own, **options, backend=backend)
    for name, x in wanted.items():
        assert_close(got[name], x, torch.float64, name)
    wanted_grads = gradients(wanted, exact)
    for name, grad in gradients(got, own).items():
        assert_close(grad, wanted_grads[name], torch.float64, f"d{name}", slack=10)


@pytest.mark.parametrize("cu", [None, (0, 0, 3, 5)], ids=["rows", "segments"])
def test_gradcheck_in_float64(cu):
    case = Case(cu=cu, B=1, N=5, H=1, D=3, size=2, states=cu is not None)
    tensors, options = with_grad(case.inputs()), case.options()
    names = list(tensors)

    def call(*xs):
        return tuple(run(dict(zip(names, xs, strict=True)), **options, backend="eager").values())

    assert gradcheck(call, tuple(tensors.values()))


@pytest.mark.parametrize("elements", [1, 300, 2000])
@pytest.mark.parametrize("cu", [None, CU], ids=["rows", "segments"])
def test_how_many_mini_batches_and_sequences_are_taken_at_a_time_does_not_matter(cu, elements, monkeypatch):
    case = Case(cu=cu, B=3, N=100, size=8, states=True)
    inputs, options = case.inputs(), case.options()
    one, other = with_grad(inputs), with_grad(inputs)
    wanted = run(one, **options)
    wanted_grads = gradients(wanted, one)
    monkeypatch.setattr(tiles, "CACHE_ELEMENTS", elements)
    got = run(other, **options)
    for name, x in wanted.items():
        assert_close(got[name], x, torch.float64, name)
    for name, grad in gradients(got, other).items():
        assert_close(grad, wanted_grads[name], torch.float64, f"d{name}", slack=10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cu", [None, (0, 0, 70, 71, 130)], ids=["rows", "segments"])
@pytest.mark.parametrize("width", [8, 24])
def test_sizes_and_dtypes_match_the_reference_with_gradients(width, cu, dtype):
    case = Case(B=1, N=130, D=width, size=16, cu=cu, dtype=dtype)
    inputs, options = case.inputs(), case.options()
    exact, own = with_grad({name: x.double() for name, x in inputs.items()}), with_grad(inputs)
    wanted, got = run(exact, **options, backend="reference"), run(own, **options)
    assert [got[name].dtype for name in ("o", "W", "b")] == [dtype, torch.float32, torch.float32]
    for name, x in wanted.items():
        assert_close(got[name], x, dtype if name == "o" else torch.float32, name)
    wanted_grads = gradients(wanted, exact)
    for name, grad in gradients(got, own).items():
        assert grad.dtype == inputs[name].dtype
        assert_close(grad, wanted_grads[name], dtype, f"d{name}", slack=10)  # that of o was rounded too
