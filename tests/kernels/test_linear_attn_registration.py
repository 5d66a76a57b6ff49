"""The ops as compilers, exporters and autocast see them; all on a machine without a GPU."""

import io

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from torch.library import opcheck

from linzoo.kernels import LinState, feature_map, lin_readout, lin_reduce, linear_attn

from ..sampling import sampled
from .cases import Case, gradients, with_grad
from .tolerances import relative_error

OPS = ["linzoo.lin_readout.default", "linzoo.lin_reduce.default"]
CU = torch.tensor([0, 3, 3, 17], dtype=torch.int32)


def float32(case: Case):
    tensors = case.inputs()
    return with_grad({name: x.float() for name, x in tensors.items()})


@pytest.mark.parametrize("kind", ["rows", "segments", "centred"])
def test_opcheck_passes_on_reduce(kind):
    x = float32(Case(cu=(0, 17) if kind == "segments" else None, weight=kind == "rows"))
    rope = tuple(torch.randn(17, 4) for _ in range(2)) if kind != "centred" else (None, None)
    mask = torch.rand(x["k"].shape[:2]) > 0.3 if kind == "rows" else None
    cu = CU if kind == "segments" else None
    args = (x["k"], x["v"], x.get("weight"), mask, *rope, cu, "elu1", kind == "centred", "eager")
    opcheck(torch.ops.linzoo.lin_reduce.default, args)


@pytest.mark.parametrize("kind", ["clamp", "mag", "segments", "index"])
def test_opcheck_passes_on_readout(kind):
    packed = kind in ("segments", "index")
    x = float32(Case(norm="clamp"))
    state = lin_reduce(
        *(x[name].detach()[: 1 if packed else 2] for name in "kv"), cu_seqlens=CU if packed else None
    )
    q = x["q"].detach()[: len(state.n)] if not packed else x["q"].detach()[:1]
    grads = [t.detach().clone().requires_grad_() for t in (q, state.S, state.s, state.m)]
    tau = x["scale"] if kind == "clamp" else None
    rope = tuple(torch.randn(17, 4) for _ in range(2)) if kind != "mag" else (None, None)
    cu = CU if kind == "segments" else None
    index = torch.randint(0, 3, (17,), dtype=torch.int32) if kind == "index" else None
    norm = kind if kind in ("clamp", "mag") else "sum"
    words = ("elu1", norm, 1e-6, "mean", 0.5 if norm == "mag" else 0.0, 2.0, False, "eager")
    opcheck(torch.ops.linzoo.lin_readout.default, (*grads, state.n, tau, *rope, cu, index, *words))


def compiled_equals_eager(case: Case, backend: str, **more):
    inputs, options = float32(case), case.options() | more
    if "rope" in options:
        options["rope"] = tuple(t.float() for t in options["rope"])

    def call(**tensors):
        return linear_attn(**tensors, **options)

    fast = torch.compile(call, fullgraph=True, backend=backend)
    wanted, got = call(**inputs), fast(**inputs)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    wanted_grads = gradients(wanted, inputs)
    for name, grad in gradients(got, inputs).items():
        torch.testing.assert_close(grad, wanted_grads[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", ["sum", "clamp", "mag", "sub"])
def test_compile_fullgraph_forward_and_backward(norm):
    compiled_equals_eager(Case(norm=norm, rope=True, weight=norm == "sum", mask=True), "aot_eager")


def test_compiled_gradients_at_zero_are_those_of_eager():
    x = torch.tensor([-90.0, -1.0, 0.0, 1.0, 90.0], requires_grad=True)
    compiled = torch.compile(lambda x: feature_map(x, "elu1"), fullgraph=True, backend="aot_eager")
    (slope,) = torch.autograd.grad(compiled(x).sum(), x)
    torch.testing.assert_close(slope, x.detach().clamp(max=0).exp())

    def call(q, k, v):
        return linear_attn(q, k, v, feature="elu1")

    tensors = with_grad({name: torch.randn(1, 50, 2, 8).relu() for name in "qkv"})  # half of them 0
    wanted = gradients(call(**tensors), tensors)
    fast = torch.compile(call, fullgraph=True, backend="aot_eager")
    for name, grad in gradients(fast(**tensors), tensors).items():
        assert relative_error(grad, wanted[name]) < 1e-5, name


@pytest.mark.slow
def test_inductor_compiles_forward_and_backward():
    compiled_equals_eager(Case(norm="mag", rope=True), "inductor")


def test_compile_fullgraph_with_segments_keeps_the_op():
    compiled_equals_eager(Case(cu=(0, 5, 17)), "aot_eager")


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_many_numbers_of_tokens_do_not_recompile_for_ever(backend):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    options = {"feature": "elu1", "norm": "mag", "backend": backend}
    fast = torch.compile(lambda *x: linear_attn(*x, **options), fullgraph=True, backend=counter)
    for n in (17, 20, 33, 64, 65, 100, 196, 257):
        q, k, v = (torch.randn(2, n, 2, 4) for _ in "qkv")
        torch.testing.assert_close(fast(q, k, v), linear_attn(q, k, v, **options), rtol=1e-4, atol=1e-5)
    assert 1 <= counter.frame_count <= 3


def traced_targets(call, *args) -> list[str]:
    graphs = []
    torch.compile(call, fullgraph=True, backend=lambda gm, _: graphs.append(gm) or gm.forward)(*args)
    return sorted(
        {str(node.target) for gm in graphs for node in gm.graph.nodes if "linzoo" in str(node.target)}
    )


def test_compile_on_the_cpu_traces_plain_torch_unless_a_backend_is_named():
    q, k, v = (torch.randn(2, 17, 2, 4) for _ in range(3))
    assert traced_targets(lambda *x: linear_attn(*x), q, k, v) == []
    assert traced_targets(lambda *x: linear_attn(*x, backend="eager"), q, k, v) == OPS
    assert traced_targets(lambda *x: linear_attn(*x, cu_seqlens=CU), q[:1], k[:1], v[:1]) == OPS


class TwoReads(torch.nn.Module):
    """linear_attn, and the same through a state."""

    def __init__(self, **options):
        super().__init__()
        self.options = {"feature": "elu1"} | options
        self.tau = torch.nn.Parameter(torch.ones(2)) if options["norm"] == "clamp" else None

    def forward(self, q, k, v):
        extra = {} if self.tau is None else {"scale": self.tau}
        state = lin_reduce(k, v, feature="elu1", norm=self.options["norm"])
        read = lin_readout(q, state, **self.options, **extra)
        return linear_attn(q, k, v, **self.options, **extra) + read


def model_and_inputs(norm):
    options = {"cmin": 5.0} if norm == "clamp" else {}
    n = torch.export.Dim("n", min=2, max=4096)
    sizes = {name: {1: n} for name in "qkv"}
    return (
        TwoReads(norm=norm, **options),
        [tuple(torch.randn(2, t, 2, 4) for _ in "qkv") for t in (20, 57)],
        sizes,
    )


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
@pytest.mark.parametrize("norm", ["sum", "clamp", "mag", "sub"])
def test_export_with_dynamic_tokens_keeps_the_ops_and_survives_a_file(norm, strict):
    model, (small, large), sizes = model_and_inputs(norm)
    program = torch.export.export(model, small, dynamic_shapes=sizes, strict=strict)
    assert sorted({str(n.target) for n in program.graph.nodes if "linzoo" in str(n.target)}) == OPS
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    torch.testing.assert_close(loaded(*large), model(*large))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm", sampled(["sum", "clamp", "mag", "sub"], ["clamp", "sub"]))
def test_onnx_export_with_dynamic_tokens_runs_in_onnxruntime(norm, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs linzoo[onnx]")
    pytest.importorskip("onnxscript", reason="needs linzoo[onnx]")
    model, (small, large), sizes = model_and_inputs(norm)
    program = torch.onnx.export(model, small, dynamic_shapes=sizes, dynamo=True, verbose=False)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    (got,) = session.run(None, {name: x.numpy() for name, x in zip(names, large, strict=True)})
    torch.testing.assert_close(torch.from_numpy(got), model(*large), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_autocast_casts_tokens_and_leaves_states_alone(compiled):
    case = Case(norm="clamp", weight=True, rope=True)
    inputs, options = float32(case), case.options()
    options["rope"] = tuple(t.float() for t in options["rope"])

    def call(**tensors):
        return linear_attn(**tensors, **options)

    run = torch.compile(call, fullgraph=True, backend="aot_eager") if compiled else call
    with torch.autocast("cpu", torch.bfloat16):
        y = run(**inputs)
        state = lin_reduce(inputs["k"], inputs["v"], feature="elu1")
        read = lin_readout(inputs["q"], state, feature="elu1")
    assert y.dtype == read.dtype == torch.bfloat16
    assert state.S.dtype == state.s.dtype == state.m.dtype == torch.float32
    grads = gradients(y, inputs)
    assert {grad.dtype for grad in grads.values()} == {torch.float32}
    low = {name: x.bfloat16() if name in "qkv" else x for name, x in inputs.items()}
    # products inside stay float32: only a rare last bit of y may differ, where bfloat16 products cost 3e-3
    assert relative_error(y, call(**low)) < 5e-4
    # the sums themselves were not rounded: they equal those of bfloat16 inputs outside autocast, bit by bit
    assert torch.equal(state.S, lin_reduce(low["k"], low["v"], feature="elu1").S)


def test_autocast_brings_mixed_dtypes_together():
    q, k, v = torch.randn(1, 9, 2, 4), torch.randn(1, 9, 2, 4).bfloat16(), torch.randn(1, 9, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = linear_attn(q, k, v)
        assert lin_reduce(k, v).S.dtype == torch.float32
    assert torch.equal(mixed, linear_attn(q.bfloat16(), k, v.bfloat16()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fake_cuda_tensors_get_shapes_dtypes_and_device_from_the_triton_op(dtype):
    with FakeTensorMode():
        q, k = (torch.empty(2, 30, 4, 16, device="cuda", dtype=dtype) for _ in range(2))
        v = torch.empty(2, 30, 4, 8, device="cuda", dtype=dtype)
        y = linear_attn(q, k, v, norm="mag")
        state = lin_reduce(k, v)
        assert (tuple(y.shape), y.dtype, y.device.type, y.stride()) == (
            (2, 30, 4, 8),
            dtype,
            "cuda",
            (960, 32, 8, 1),
        )
        assert (tuple(state.S.shape), state.S.dtype, state.S.device.type) == (
            (2, 4, 16, 8),
            torch.float32,
            "cuda",
        )
        assert (state.n.dtype, tuple(state.n.shape)) == (torch.int64, (2,))
        tau = torch.empty(4, device="cuda")
        tables = (torch.empty(30, 16, device="cuda"),) * 2
        words = ("elu1", "clamp", 1e-6, "mean", 0.0, 1.0, False, "triton")
        tensors = (state.S, state.s, state.m, state.n, tau, *tables, None, None)
        grads = torch.ops.linzoo.lin_readout_bwd(y, q, *tensors, *words)
        assert [tuple(g.shape) for g in grads] == [(2, 30, 4, 16), (2, 4, 16, 8), (2, 4, 16), (2, 4, 8), (4,)]
        weight = torch.empty(2, 30, 4, device="cuda")
        rest = (None, *tables, None, state.s, state.m, state.n, "elu1", False, "triton")
        grads = torch.ops.linzoo.lin_reduce_bwd(state.S, state.s, state.m, k, v, weight, *rest)
        assert [tuple(g.shape) for g in grads] == [(2, 30, 4, 16), (2, 30, 4, 8), (2, 30, 4)]
        assert [g.dtype for g in grads] == [dtype, dtype, torch.float32]


def test_meta_tensors_run_forward_and_backward():
    x = with_grad({name: torch.empty(2, 30, 4, 16, device="meta") for name in "qkv"})
    y = linear_attn(**x, feature="elu1", norm="sub")
    y.sum().backward()
    assert y.device.type == "meta"
    assert x["q"].grad.shape == (2, 30, 4, 16)


def test_states_can_be_built_and_added_inside_a_compiled_function():
    k, v = torch.randn(1, 12, 2, 4), torch.randn(1, 12, 2, 4)

    def total(k, v):
        left, right = lin_reduce(k[:, :5], v[:, :5], norm="sub"), lin_reduce(k[:, 5:], v[:, 5:], norm="sub")
        return (left + right).S

    got = torch.compile(total, fullgraph=True, backend="aot_eager")(k, v)
    torch.testing.assert_close(got, lin_reduce(k, v, norm="sub").S, rtol=1e-5, atol=1e-5)
    assert isinstance(lin_reduce(k, v), LinState)
