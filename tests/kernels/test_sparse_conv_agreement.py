"""Sparse convolutions against the dense convolution in float64, forward and every gradient."""

from dataclasses import replace

import pytest
import torch
from torch.autograd import gradcheck

from linzoo.kernels import depthwise_sparse_conv, sparse_conv

from .sparse_conv_cases import CASES, Case, dense_conv, dense_depthwise, gradients
from .tolerances import assert_close


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_form_equals_the_dense_convolution_forward_and_every_gradient(case, backend):
    coords = case.coords()
    pairs, outputs, _ = case.pairs(coords)
    x = case.inputs(len(coords))
    used = {name: x[name] for name in ("x", "weight", "bias")}
    wanted = dense_conv(case, x, coords, outputs)
    got = sparse_conv(x["x"], x["weight"], pairs, bias=x["bias"], backend=backend)
    assert_close(got, wanted, torch.float64, "y")
    wanted_grads = gradients(wanted, used)
    for name, grad in gradients(got, used).items():
        assert_close(grad, wanted_grads[name], torch.float64, f"d{name}")


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_depthwise_equals_the_dense_grouped_convolution_forward_and_every_gradient(case, backend):
    coords = case.coords()
    pairs, outputs, _ = case.pairs(coords)
    x = case.inputs(len(coords))
    used = {name: x[name] for name in ("x", "scales")}
    wanted = dense_depthwise(case, x, coords, outputs)
    got = depthwise_sparse_conv(x["x"], x["scales"], pairs, backend=backend)
    assert_close(got, wanted, torch.float64, "y")
    wanted_grads = gradients(wanted, used)
    for name, grad in gradients(got, used).items():
        assert_close(grad, wanted_grads[name], torch.float64, f"d{name}")


@pytest.mark.parametrize("case", [CASES[1], CASES[11]], ids=str)
def test_gradcheck_in_float64(case):
    case = replace(case, shape=(3, 2, 3), cin=2, cout=2)
    coords = case.coords()
    pairs, _, _ = case.pairs(coords)
    x = case.inputs(len(coords))
    assert gradcheck(lambda a, w, b: sparse_conv(a, w, pairs, bias=b), (x["x"], x["weight"], x["bias"]))
    assert gradcheck(lambda a, w: depthwise_sparse_conv(a, w, pairs), (x["x"], x["scales"]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", [CASES[1], CASES[11]], ids=str)
def test_dtypes_are_added_up_in_float32_and_rounded_once(case, dtype):
    case = replace(case, cin=20, cout=9, dtype=dtype, shape=(6, 5, 7))
    coords = case.coords()
    pairs, outputs, _ = case.pairs(coords)
    x = case.inputs(len(coords))
    calls = {
        "y": (sparse_conv(x["x"], x["weight"], pairs, bias=x["bias"]), dense_conv, ("x", "weight", "bias")),
        "depthwise": (depthwise_sparse_conv(x["x"], x["scales"], pairs), dense_depthwise, ("x", "scales")),
    }
    for what, (got, definition, names) in calls.items():
        used = {name: x[name] for name in names}
        exact = {name: t.detach().double().requires_grad_() for name, t in x.items()}
        wanted = definition(case, exact, coords, outputs)
        assert got.dtype == dtype
        rounded = wanted.to(dtype).double() if dtype != torch.float32 else wanted
        assert_close(got, rounded, torch.float32 if dtype == torch.float32 else dtype, what, slack=0.25)
        wanted_grads = gradients(wanted.to(dtype), {name: exact[name] for name in names})
        for name, grad in gradients(got, used).items():
            assert grad.dtype == dtype
            assert_close(grad, wanted_grads[name], dtype, f"d{name}")


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize("stride", [None, (2, 2, 2)], ids=["subm", "strided"])
def test_no_rows_in_give_no_rows_out_and_zero_gradients(stride, backend):
    case = Case(occupied=0.0, stride=stride)
    coords = case.coords()
    pairs, outputs, _ = case.pairs(coords)
    x = case.inputs(0)
    y = sparse_conv(x["x"], x["weight"], pairs, bias=x["bias"], backend=backend)
    z = depthwise_sparse_conv(x["x"], x["scales"], pairs, backend=backend)
    assert y.shape == (0, 4) and z.shape == (0, 3) and outputs.shape == (0, 4)
    grads = torch.autograd.grad(y.sum() + z.sum(), list(x.values()))
    assert all(not g.any() and g.shape == t.shape for g, t in zip(grads, x.values(), strict=True))


def test_only_the_gradients_that_are_wanted_are_computed(monkeypatch):
    from linzoo.kernels.sparse_conv import ops

    case = CASES[0]
    coords = case.coords()
    pairs, _, _ = case.pairs(coords)
    asked = []
    run = ops.eager.backward
    monkeypatch.setattr(ops.eager, "backward", lambda *args: asked.append(args[-2:]) or run(*args))
    for wanted in (("x",), ("weight",), ("bias",), ("x", "weight", "bias")):
        x = {n: t.detach().requires_grad_(n in wanted) for n, t in case.inputs(len(coords)).items()}
        y = sparse_conv(x["x"], x["weight"], pairs, bias=x["bias"])
        y.sum().backward()
        assert {name for name, t in x.items() if t.grad is not None} == set(wanted)
    assert asked == [(True, False), (False, True), (True, True)]


def test_any_strides_of_features_weight_and_gradient_are_taken():
    case = CASES[1]
    coords = case.coords()
    pairs, outputs, _ = case.pairs(coords)
    x = case.inputs(len(coords))
    odd = {
        "x": x["x"].detach().t().contiguous().t().requires_grad_(),
        "weight": x["weight"].detach().transpose(0, 4).contiguous().transpose(0, 4).requires_grad_(),
        "bias": x["bias"],
    }
    wanted = dense_conv(case, odd, coords, outputs)
    got = sparse_conv(odd["x"], odd["weight"], pairs, bias=odd["bias"])
    assert_close(got, wanted, torch.float64)
    constant = torch.autograd.grad(got.sum(), list(odd.values()))  # an expanded gradient, strides 0
    for a, b in zip(constant, torch.autograd.grad(wanted.sum(), list(odd.values())), strict=True):
        assert_close(a, b, torch.float64)
