"""The scan as compilers, exporters, autocast and torch.func see it; all on a machine without a GPU."""

import io

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.library import opcheck

from linzoo.kernels import BackendError, selective_scan

from .selective_cases import INPUTS, Case, gradients, run, with_grad
from .tolerances import assert_close, relative_error

CASES = [
    Case(N=70, initial=True),
    Case(N=70, skip=False, reverse=True),
    Case(N=70, cu=(0, 0, 3, 70), initial=True),
]


def float32(case: Case):
    return with_grad({name: x.float() for name, x in case.inputs().items()})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_opcheck_passes(case):
    x = float32(case)
    tensors = [x.get(name) for name in (*INPUTS, "initial")]
    cu = case.options()["cu_seqlens"]
    opcheck(torch.ops.linzoo.selective_scan.default, (*tensors, cu, case.reverse, True, "eager"))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_compile_fullgraph_forward_and_backward(case, backend):
    torch._dynamo.reset()
    inputs = float32(case)
    fast = torch.compile(lambda x: run(case, x, "auto"), fullgraph=True, backend=backend)
    wanted, got = run(case, inputs, "auto"), fast(inputs)
    for name, x in wanted.items():
        torch.testing.assert_close(got[name], x, rtol=1e-4, atol=1e-5)
    wanted_grads = gradients(wanted, inputs)
    for name, grad in gradients(got, inputs).items():
        torch.testing.assert_close(grad, wanted_grads[name], rtol=1e-3, atol=1e-4)


def test_many_numbers_of_tokens_do_not_recompile_for_ever():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    fast = torch.compile(lambda x: selective_scan(**x)[0], fullgraph=True, backend=counter)
    for n in (17, 20, 33, 64, 65, 100, 196, 257):
        x = Case(N=n, dtype=torch.float32).inputs()
        torch.testing.assert_close(fast(x), selective_scan(**x)[0], rtol=1e-4, atol=1e-5)
    assert 1 <= counter.frame_count <= 3


class Scans(torch.nn.Module):
    """A scan, and its continuation the other way."""

    def __init__(self):
        super().__init__()
        self.A = torch.nn.Parameter(-torch.rand(3, 4))

    def forward(self, u, delta, B, C):
        y, state = selective_scan(u, delta, self.A, B, C)
        return y + selective_scan(u, delta, self.A, B, C, initial=state, reverse=True)[0]


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
def test_export_with_dynamic_tokens_keeps_the_op_and_survives_a_file(strict):
    model = Scans()
    n = torch.export.Dim("n", min=2, max=4096)
    small, large = (tuple(torch.rand(2, t, width) for width in (3, 3, 4, 4)) for t in (20, 157))
    sizes = {name: {1: n} for name in ("u", "delta", "B", "C")}
    program = torch.export.export(model, small, dynamic_shapes=sizes, strict=strict)
    found = {str(node.target) for node in program.graph.nodes if "linzoo" in str(node.target)}
    assert found == {"linzoo.selective_scan.default"}
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    torch.testing.assert_close(loaded(*large), model(*large))
    for own in (loaded, model):
        own(*large).square().sum().backward()
    (got,), (wanted,) = ([p.grad for p in m.parameters()] for m in (loaded, model))
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_autocast_casts_u_b_and_c_and_leaves_steps_decays_and_states_alone(compiled):
    case = Case(N=40, C=16, S=16, initial=True)
    inputs = float32(case)
    torch._dynamo.reset()
    call = lambda x: run(case, x, "auto")  # noqa: E731
    fast = torch.compile(call, fullgraph=True, backend="aot_eager") if compiled else call
    with torch.autocast("cpu", torch.bfloat16):
        got = fast(inputs)
    assert got["y"].dtype == torch.bfloat16 and got["state"].dtype == torch.float32
    assert {grad.dtype for grad in gradients(got, inputs).values()} == {torch.float32}
    low = {name: x.bfloat16() if name in ("u", "B", "C") else x for name, x in inputs.items()}
    for name, x in call(low).items():  # nothing inside was rounded to bfloat16
        assert relative_error(got[name], x) < 1e-6, name


@pytest.mark.parametrize(("backend", "kept"), [("eager", 2 * 1), ("triton", 2 * 2)])
def test_fake_cuda_tensors_get_shapes_dtypes_and_device(backend, kept):
    with FakeTensorMode():
        u = torch.empty(2, 40, 24, device="cuda", dtype=torch.bfloat16)
        delta, A = torch.empty(2, 40, 24, device="cuda"), torch.empty(24, 16, device="cuda")
        B = torch.empty(2, 40, 16, device="cuda", dtype=torch.bfloat16)
        tensors = (u, delta, A, B, B, None, None, None)
        y, state, between = torch.ops.linzoo.selective_scan(*tensors, False, True, backend)
        assert (tuple(y.shape), y.dtype, y.device.type) == ((2, 40, 24), torch.bfloat16, "cuda")
        assert (tuple(state.shape), state.dtype) == ((2, 24, 16), torch.float32)
        assert tuple(between.shape) == (kept, 24, 16)
        grads = torch.ops.linzoo.selective_scan_bwd(y, state, between, *tensors, False, backend)
        given = (u, delta, A, B, B)
        assert [(g.shape, g.dtype) for g in grads[:5]] == [(x.shape, x.dtype) for x in given]
        assert [tuple(g.shape) for g in grads[5:]] == [(0,), (0,)]
        cu = torch.empty(6, device="cuda", dtype=torch.int32)
        _, state = selective_scan(u[:1], delta[:1], A, B[:1], B[:1], cu_seqlens=cu)
        assert tuple(state.shape) == (5, 24, 16)


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_derivatives_that_the_op_cannot_give_are_refused_and_the_reference_gives_them(backend):
    case = Case(N=7)
    inputs = case.inputs()

    def call(u, backend=backend):
        return run(case, inputs | {"u": u}, backend)["y"].square().sum()

    with pytest.raises(BackendError, match=f"selective_scan: backend must be 'reference' .* got '{backend}'"):
        torch.func.grad(call)(inputs["u"])
    with forward_ad.dual_level(), pytest.raises(BackendError, match="selective_scan: backend must be"):
        call(forward_ad.make_dual(inputs["u"], inputs["u"]))
    own = inputs["u"].clone().requires_grad_()
    (wanted,) = torch.autograd.grad(call(own), own)
    got = torch.func.grad(lambda u: call(u, "reference"))(inputs["u"])
    assert_close(got, wanted, torch.float64, slack=10)


def test_a_second_derivative_is_refused_by_torch():
    case = Case(N=7)
    inputs = with_grad(case.inputs())
    y = run(case, inputs)["y"]
    (grad,) = torch.autograd.grad(y.square().sum(), inputs["u"], create_graph=True)
    with pytest.raises(RuntimeError, match="selective_scan_bwd"):
        torch.autograd.grad(grad.sum(), inputs["B"])


def test_activation_checkpointing_gives_the_same_gradients():
    case = Case(N=70, initial=True)
    inputs = with_grad(case.inputs())
    names = list(inputs)

    def call(*tensors):
        return run(case, dict(zip(names, tensors, strict=True)))["y"]

    wanted = torch.autograd.grad(call(*inputs.values()).square().sum(), list(inputs.values()))
    kept = torch.utils.checkpoint.checkpoint(call, *inputs.values(), use_reentrant=False)
    got = torch.autograd.grad(kept.square().sum(), list(inputs.values()))
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_gradients_of_the_state_alone_and_of_some_inputs_alone():
    case = Case(N=40, initial=True)
    inputs = with_grad(case.inputs())
    state = run(case, inputs)["state"]
    grads = torch.autograd.grad(state.sum(), [inputs["A"], inputs["initial"]])
    exact = run(case, inputs, "reference")["state"]
    wanted = torch.autograd.grad(exact.sum(), [inputs["A"], inputs["initial"]])
    for a, b in zip(grads, wanted, strict=True):
        assert_close(a, b, torch.float64, slack=10)
