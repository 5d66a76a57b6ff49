"""torch.func and forward-mode derivatives: right, or refused; never 0 without a word."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck

from linzoo.kernels import BackendError, lin_readout, lin_reduce, linear_attn

from .cases import Case, gradients, with_grad
from .tolerances import assert_close

NORMS = ("sum", "clamp", "mag", "sub")
CU = torch.tensor([0, 5, 17], dtype=torch.int32)


def call_and_tensors(norm: str, backend: str = "auto", **fixed):
    case = Case(norm=norm, rope=norm == "mag", weight=norm == "sum", mask=True, **fixed)
    inputs, options = case.inputs(), case.options()
    names = list(inputs)

    def call(*tensors):
        return linear_attn(**dict(zip(names, tensors, strict=True)), **options, backend=backend)

    return call, tuple(inputs.values())


@pytest.mark.parametrize("norm", NORMS)
def test_forward_mode_agrees_with_finite_differences(norm):
    call, tensors = call_and_tensors(norm, N=5, H=1)
    tensors = tuple(x.requires_grad_() for x in tensors)
    assert gradcheck(call, tensors, check_forward_ad=True, check_backward_ad=False)


@pytest.mark.parametrize("norm", NORMS)
def test_jvp_and_grad_and_vjp_agree_with_the_reference(norm):
    torch.manual_seed(0)
    call, tensors = call_and_tensors(norm)
    torch.manual_seed(0)  # the same tables and mask
    reference, _ = call_and_tensors(norm, "reference")
    tangents = tuple(torch.randn_like(x) for x in tensors)
    (y, dy), (_, wanted) = (torch.func.jvp(f, tensors, tangents) for f in (call, reference))
    assert wanted.abs().max() > 0
    assert_close(dy, wanted, torch.float64, "jvp", slack=10)

    own = with_grad({str(i): x for i, x in enumerate(tensors)})
    backward = gradients(call(*own.values()), own).values()
    every = tuple(range(len(tensors)))
    probe = torch.arange(y.numel(), dtype=torch.float64).mul(0.7).sin().view_as(y)
    func = torch.func.grad(lambda *x: (call(*x) * probe).sum(), argnums=every)(*tensors)
    vjp = torch.func.vjp(call, *tensors)[1](probe)
    for got in (func, vjp):
        for a, b in zip(got, backward, strict=True):
            assert_close(a, b, torch.float64, slack=10)


def test_vmap_of_a_call_and_of_its_gradient_is_a_loop():
    call, (q, k, v, *_) = call_and_tensors("mag")
    stacked = torch.stack([q, 2 * q])
    rows = torch.func.vmap(lambda q: call(q, k, v))(stacked)
    grads = torch.func.vmap(torch.func.grad(lambda q: call(q, k, v).square().sum()))(stacked)
    for i in range(2):
        own = stacked[i].clone().requires_grad_()
        y = call(own, k, v)
        assert_close(rows[i], y, torch.float64)
        (grad,) = torch.autograd.grad(y.square().sum(), own)
        assert_close(grads[i], grad, torch.float64, slack=10)


def test_the_slope_of_elu1_at_zero_is_one_in_forward_mode_too():
    x = torch.zeros(1, 3, 1, 2, dtype=torch.float64)
    one = torch.ones_like(x)
    _, slope = torch.func.jvp(lambda k: lin_reduce(k, one, feature="elu1").s, (x,), (one,))
    assert torch.equal(slope, torch.full_like(slope, 3.0))


def test_a_compiled_jvp_is_right():
    call, tensors = call_and_tensors("mag")

    def slope(*tensors):
        return torch.func.jvp(call, tensors, tensors)[1]

    got = torch.compile(slope, backend="aot_eager")(*tensors)
    assert_close(got, slope(*tensors), torch.float64, slack=10)


@pytest.mark.parametrize("options", [{"backend": "eager"}, {"cu_seqlens": CU}], ids=["named", "packed"])
def test_what_would_give_no_derivative_is_refused(options):
    q = torch.rand(1, 17, 2, 4)
    state = lin_reduce(q, q, **options)

    def read(q):
        return lin_readout(q, state, **options)

    with pytest.raises(BackendError, match="lin_readout: backend must be 'reference'"):
        torch.func.jvp(read, (q,), (q,))
    with pytest.raises(BackendError, match="lin_reduce: backend must be 'reference'"):
        torch.func.grad(lambda k: lin_reduce(k, q, **options).S.sum())(q)
    with forward_ad.dual_level(), pytest.raises(BackendError, match="linear_attn: backend must"):
        linear_attn(forward_ad.make_dual(q, q), q, q, **options)
    assert torch.func.vmap(read)(torch.stack([q, q])).shape == (2, 1, 17, 2, 4)
