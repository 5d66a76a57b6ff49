"""The scan as compilers, exporters, autocast and torch.func see it; all on a machine without a GPU."""

import io

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.library import opcheck

from linzoo.kernels import BackendError, ttt_scan

from .cases import with_grad
from .tolerances import assert_close, relative_error
from .ttt_cases import Case, gradients, run

CU = (0, 3, 3, 17)


def float32(case: Case):
    return with_grad({name: x.float() for name, x in case.inputs().items()})


@pytest.mark.parametrize("cu", [None, CU], ids=["rows", "segments"])
def test_opcheck_passes(cu):
    case = Case(cu=cu, states=True)
    offsets = None if cu is None else torch.tensor(cu, dtype=torch.int32)
    opcheck(torch.ops.linzoo.ttt_scan.default, (*float32(case).values(), offsets, case.size, 1e-6))


@pytest.mark.parametrize("cu", [None, CU], ids=["rows", "segments"])
def test_compile_fullgraph_forward_and_backward(cu):
    torch._dynamo.reset()
    case = Case(cu=cu)
    inputs, options = float32(case), case.options()

    def call(tensors):
        return run(tensors, **options)

    fast = torch.compile(call, fullgraph=True, backend="aot_eager")
    wanted, got = call(inputs), fast(inputs)
    for name, x in wanted.items():
        torch.testing.assert_close(got[name], x, rtol=1e-4, atol=1e-5)
    wanted_grads = gradients(wanted, inputs)
    for name, grad in gradients(got, inputs).items():
        torch.testing.assert_close(grad, wanted_grads[name], rtol=1e-3, atol=1e-4)


class Scan(torch.nn.Module):
    """A scan with weights of its own."""

    def __init__(self):
        super().__init__()
        case = Case(size=8)
        rest = {name: x.float() for name, x in case.inputs().items() if name not in ("q", "k", "v", "rate")}
        self.weights = torch.nn.ParameterDict(rest)

    def forward(self, q, k, v, rate):
        o, (W, _) = ttt_scan(q, k, v, rate, **dict(self.weights.items()), size=8)
        return o, W


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
def test_export_with_dynamic_tokens_keeps_the_op_and_survives_a_file(strict):
    model = Scan()
    n = torch.export.Dim("n", min=2, max=4096)
    small, large = ((*(torch.rand(2, t, 2, 4) for _ in range(3)), torch.rand(2, t, 2)) for t in (20, 57))
    sizes = {name: {1: n} for name in ("q", "k", "v", "rate")}
    program = torch.export.export(model, small, dynamic_shapes=sizes, strict=strict)
    found = {str(node.target) for node in program.graph.nodes if "linzoo" in str(node.target)}
    assert found == {"linzoo.ttt_scan.default"}
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    torch.testing.assert_close(loaded(*large), model(*large))


def test_autocast_casts_tokens_and_leaves_weights_rates_and_states_alone():
    case = Case(N=40, D=16, size=16)
    inputs, options = float32(case), case.options()
    with torch.autocast("cpu", torch.bfloat16):
        got = run(inputs, **options)
    assert [x.dtype for x in got.values()] == [torch.bfloat16, torch.float32, torch.float32]
    assert {grad.dtype for grad in gradients(got, inputs).values()} == {torch.float32}
    low = {name: x.bfloat16() if name in ("q", "k", "v") else x for name, x in inputs.items()}
    for name, x in run(low, **options).items():  # nothing inside was rounded to bfloat16
        assert relative_error(got[name], x) < 1e-6, name


def test_weights_in_half_precision_are_read_in_float32():
    case = Case(N=40, size=16)
    inputs = {name: x.bfloat16() for name, x in case.inputs().items()}
    got, wanted = run(inputs, size=16), run({n: x.float() for n, x in inputs.items()}, size=16)
    assert (got["o"].dtype, got["W"].dtype) == (torch.bfloat16, torch.float32)
    assert relative_error(got["W"], wanted["W"]) < 1e-6


def test_fake_cuda_tensors_get_shapes_dtypes_and_device():
    with FakeTensorMode():
        q = torch.empty(1, 30, 2, 4, device="cuda", dtype=torch.bfloat16)
        heads = torch.empty(2, 4, device="cuda")
        rest = (torch.empty(1, 30, 2, device="cuda"), torch.empty(16, device="cuda"))
        cu = torch.empty(6, device="cuda", dtype=torch.int32)
        W0 = torch.empty(2, 4, 4, device="cuda")
        o, (W, b) = ttt_scan(q, q, q, *rest, W0, heads, heads, heads, cu_seqlens=cu)
        assert (tuple(o.shape), o.dtype, o.device.type) == ((1, 30, 2, 4), torch.bfloat16, "cuda")
        assert (tuple(W.shape), W.dtype, tuple(b.shape)) == ((5, 2, 4, 4), torch.float32, (5, 2, 4))


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_derivatives_that_the_op_cannot_give_are_refused_and_the_reference_gives_them(backend):
    inputs, options = (case := Case(N=7)).inputs(), case.options()

    def call(q, backend=backend):
        return run(inputs | {"q": q}, **options, backend=backend)["o"].square().sum()

    with pytest.raises(BackendError, match=f"ttt_scan: backend must be 'reference' .* got '{backend}'"):
        torch.func.grad(call)(inputs["q"])
    with forward_ad.dual_level(), pytest.raises(BackendError, match="ttt_scan: backend must be"):
        call(forward_ad.make_dual(inputs["q"], inputs["q"]))
    own = inputs["q"].clone().requires_grad_()
    (wanted,) = torch.autograd.grad(call(own), own)
    got = torch.func.grad(lambda q: call(q, "reference"))(inputs["q"])
    assert_close(got, wanted, torch.float64, slack=10)


def test_a_second_derivative_is_refused_by_torch():
    inputs = with_grad((case := Case(N=7)).inputs())
    o = run(inputs, **case.options())["o"]
    (grad,) = torch.autograd.grad(o.square().sum(), inputs["q"], create_graph=True)
    with pytest.raises(RuntimeError, match="ttt_scan_bwd"):
        torch.autograd.grad(grad.sum(), inputs["k"])


def test_activation_checkpointing_gives_the_same_gradients():
    inputs, options = with_grad((case := Case()).inputs()), case.options()
    names = list(inputs)

    def call(*tensors):
        return run(dict(zip(names, tensors, strict=True)), **options)["o"]

    wanted = torch.autograd.grad(call(*inputs.values()).square().sum(), list(inputs.values()))
    kept = torch.utils.checkpoint.checkpoint(call, *inputs.values(), use_reentrant=False)
    got = torch.autograd.grad(kept.square().sum(), list(inputs.values()))
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
