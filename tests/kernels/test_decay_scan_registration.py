"""The scan as compilers, exporters, autocast and torch.func see it; all on a machine without a GPU."""

import io

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.library import opcheck

from linzoo.kernels import BackendError, MaxState, decay_scan

from .cases import with_grad
from .decay_cases import FORMS, Case, gradients, run
from .tolerances import assert_close, relative_error

OPS = ["linzoo.decay_scan.default"]
FORM_KINDS = [(form, "constant" if form in ("symmetric", "max") else "channel") for form in FORMS]
CU = torch.tensor([0, 3, 3, 17], dtype=torch.int32)


def float32(case: Case):
    return with_grad({name: x.float() for name, x in case.inputs().items()})


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "segments"])
@pytest.mark.parametrize("kind", ["constant", "token", "channel"])
def test_opcheck_passes_on_the_scan(kind, packed):
    case = Case(form="rwkv", kind=kind, initial=True, cu=(0, 3, 3, 17) if packed else None)
    x = float32(case)
    count = kind == "token"
    weight = torch.randn(x["q"].shape[:3], requires_grad=True) if count else None
    state = torch.randn(case.states, 2, 4, 3 + count, requires_grad=True)
    tensors = (x["q"], x["k"], x["v"], x["log_decay"], weight, x["bonus"], state, CU if packed else None)
    opcheck(torch.ops.linzoo.decay_scan.default, (*tensors, 0, True, count, 0.5, True, 8))


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "segments"])
def test_opcheck_passes_on_the_running_maximum(packed):
    decay, gate = (torch.randn(1 if packed else 2, 17, 2).double().requires_grad_() for _ in range(2))
    m = torch.randn(3 if packed else 2, 2).double().requires_grad_()
    opcheck(torch.ops.linzoo.decay_max.default, (decay, gate, m, CU if packed else None, packed))


def compiled_equals_eager(case: Case, backend: str):
    torch._dynamo.reset()  # one function with many options: more graphs than are kept
    inputs, options = float32(case), case.options()

    def call(tensors):
        return run(tensors, **options)

    fast = torch.compile(call, fullgraph=True, backend=backend)
    wanted, got = call(inputs), fast(inputs)
    for name, x in wanted.items():
        torch.testing.assert_close(got[name], x, rtol=1e-4, atol=1e-5)
    wanted_grads = gradients(wanted, inputs)
    for name, grad in gradients(got, inputs).items():
        torch.testing.assert_close(grad, wanted_grads[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("cu", [None, (0, 0, 5, 17)], ids=["rows", "segments"])
@pytest.mark.parametrize(("form", "kind"), FORM_KINDS)
def test_compile_fullgraph_forward_and_backward(form, kind, cu):
    compiled_equals_eager(Case(form=form, kind=kind, cu=cu, initial=True, reverse=form == "max"), "aot_eager")


@pytest.mark.slow
def test_inductor_compiles_forward_and_backward():
    compiled_equals_eager(Case(form="max", kind="token", initial=True), "inductor")


def test_many_numbers_of_tokens_do_not_recompile_for_ever():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    fast = torch.compile(lambda *x: decay_scan(*x)[0], fullgraph=True, backend=counter)
    for n in (17, 20, 33, 64, 65, 100, 196, 257):
        q, k, v, log_decay = (torch.randn(2, n, 2, 4) for _ in range(4))
        x = (q, k, v, -log_decay.abs())
        torch.testing.assert_close(fast(*x), decay_scan(*x)[0], rtol=1e-4, atol=1e-5)
    assert 1 <= counter.frame_count <= 3


class Scans(torch.nn.Module):
    """A scan, and its continuation."""

    def __init__(self, form: str):
        super().__init__()
        self.options = {"symmetric": {"symmetric_block": 5}, "max": {"normalizer": "max"}}.get(form, {})
        if form in ("bonus", "rwkv"):
            self.bonus = torch.nn.Parameter(torch.randn(2, 4))
        self.constant = form in ("symmetric", "max")
        self.exclusive = form in ("exclusive", "rwkv")

    def forward(self, q, k, v, log_decay):
        options = self.options | {"exclusive": self.exclusive, "bonus": getattr(self, "bonus", None)}
        log_decay = log_decay[0, 0, :, 0] if self.constant else log_decay
        o, state = decay_scan(q, k, v, log_decay, **options)
        again, _ = decay_scan(q, k, v, log_decay, **options, initial=state, reverse=True)
        return o + again


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
@pytest.mark.parametrize("form", FORMS)
def test_export_with_dynamic_tokens_keeps_the_op_and_survives_a_file(form, strict):
    model = Scans(form)
    n = torch.export.Dim("n", min=2, max=4096)
    small, large = (tuple(-torch.rand(2, t, 2, 4) for _ in range(4)) for t in (20, 57))
    sizes = {name: {1: n} for name in ("q", "k", "v", "log_decay")}
    program = torch.export.export(model, small, dynamic_shapes=sizes, strict=strict)
    found = {str(node.target) for node in program.graph.nodes if "linzoo" in str(node.target)}
    assert found == set(OPS) | ({"linzoo.decay_max.default"} if form == "max" else set())
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    torch.testing.assert_close(loaded(*large), model(*large))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("form", "kind"), FORM_KINDS)
def test_autocast_casts_tokens_and_leaves_decays_and_states_alone(form, kind, compiled):
    case = Case(form=form, kind=kind, N=40, D=16, E=16, initial=True)
    inputs, options = float32(case), case.options()

    def call(tensors):
        return run(tensors, **options)

    torch._dynamo.reset()
    fast = torch.compile(call, fullgraph=True, backend="aot_eager") if compiled else call
    with torch.autocast("cpu", torch.bfloat16):
        got = fast(inputs)
    assert got["o"].dtype == torch.bfloat16
    assert {x.dtype for name, x in got.items() if name != "o"} == {torch.float32}
    assert {grad.dtype for grad in gradients(got, inputs).values()} == {torch.float32}
    low = {name: x.bfloat16() if name in "qkv" else x for name, x in inputs.items()}
    for name, x in call(low).items():  # nothing inside was rounded to bfloat16
        assert relative_error(got[name], x) < 1e-6, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fake_cuda_tensors_get_shapes_dtypes_and_device(dtype):
    with FakeTensorMode():
        q, k = (torch.empty(2, 30, 4, 16, device="cuda", dtype=dtype) for _ in range(2))
        v = torch.empty(2, 30, 4, 8, device="cuda", dtype=dtype)
        decay, gate = torch.empty(4, device="cuda"), torch.empty(2, 30, 4, device="cuda")
        o, S = decay_scan(q, k, v, decay)
        assert (tuple(o.shape), o.dtype, o.device.type) == ((2, 30, 4, 8), dtype, "cuda")
        assert (tuple(S.shape), S.dtype, S.device.type) == ((2, 4, 16, 8), torch.float32, "cuda")
        assert o.stride() == (960, 32, 8, 1)
        o, state = decay_scan(q, k, v, gate, normalizer="max", input_gate=gate)
        assert isinstance(state, MaxState)
        assert (o.dtype, o.device.type, {x.dtype for x in state}) == (dtype, "cuda", {torch.float32})
        assert [tuple(x.shape) for x in state] == [(2, 4, 16, 8), (2, 4, 16), (2, 4)]
        cu = torch.empty(6, device="cuda", dtype=torch.int32)
        o, S = decay_scan(q[:1], k[:1], v[:1], decay, cu_seqlens=cu)
        assert tuple(S.shape) == (5, 4, 16, 8)
        tensors = (q[:1], k[:1], v[:1], decay, None, None, S, cu)
        grads = torch.ops.linzoo.decay_scan_bwd(o, S, *tensors, 0, False, False, 1.0, False, 64)
        shapes = [(1, 30, 4, 16), (1, 30, 4, 16), (1, 30, 4, 8), (4,), (0,), (0,), (5, 4, 16, 8)]
        assert [tuple(g.shape) for g in grads] == shapes
        assert [g.dtype for g in grads[:4]] == [dtype, dtype, dtype, torch.float32]
        words = (0, False, False, 1.0, False, 64)
        grads = torch.ops.linzoo.decay_scan_bwd(o, S, *tensors, *words, decay_gradient=False)
        assert [tuple(g.shape) for g in grads] == [*shapes[:3], (0,), *shapes[4:]]


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_derivatives_that_the_op_cannot_give_are_refused_and_the_reference_gives_them(backend):
    inputs, options = (case := Case(N=7)).inputs(), case.options()

    def call(q, backend=backend):
        return run(inputs | {"q": q}, **options, backend=backend)["o"].square().sum()

    with pytest.raises(BackendError, match=f"decay_scan: backend must be 'reference' .* got '{backend}'"):
        torch.func.grad(call)(inputs["q"])
    with forward_ad.dual_level(), pytest.raises(BackendError, match="decay_scan: backend must be"):
        call(forward_ad.make_dual(inputs["q"], inputs["q"]))
    own = inputs["q"].clone().requires_grad_()
    (wanted,) = torch.autograd.grad(call(own), own)
    got = torch.func.grad(lambda q: call(q, "reference"))(inputs["q"])
    assert_close(got, wanted, torch.float64, slack=10)


@pytest.mark.parametrize("form", ["plain", "max"])
def test_a_second_derivative_is_refused_by_torch(form):
    inputs = with_grad((case := Case(form=form, kind="token", N=7)).inputs())
    o = run(inputs, **case.options())["o"]
    (grad,) = torch.autograd.grad(o.square().sum(), inputs["q"], create_graph=True)
    with pytest.raises(RuntimeError, match="decay_scan_bwd"):
        torch.autograd.grad(grad.sum(), inputs["k"])


def test_activation_checkpointing_gives_the_same_gradients():
    inputs, options = with_grad((case := Case(form="rwkv")).inputs()), case.options()
    names = list(inputs)

    def call(*tensors):
        return run(dict(zip(names, tensors, strict=True)), **options)["o"]

    wanted = torch.autograd.grad(call(*inputs.values()).square().sum(), list(inputs.values()))
    kept = torch.utils.checkpoint.checkpoint(call, *inputs.values(), use_reentrant=False)
    got = torch.autograd.grad(kept.square().sum(), list(inputs.values()))
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
