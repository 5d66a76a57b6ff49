"""The op as compilers, exporters and autocast see it, and what it allocates; on a machine without a GPU."""

import io

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.library import opcheck

from linzoo.kernels import local_attn
from linzoo.kernels.local_attn.arguments import check_geometry

from .local_attn_cases import Case, gradients, run, with_grad
from .test_linear_attn_memory import allocated
from .tolerances import relative_error

OP = "linzoo.local_attn.default"
CASES = {
    "plain": Case(n_global=0, dtype=torch.float32, grid=(5, 6)),
    "text and pooled keys": Case(n_global=3, extra=2, dtype=torch.float32, grid=(5, 6)),
    "halo": Case(n_global=3, q_rows=(1, 4), without_globals="k", dtype=torch.float32, grid=(5, 6)),
}


def op_arguments(case: Case, x: dict[str, torch.Tensor]) -> tuple:
    words = {"radius": None, "window": None} | case.options()
    geometry = check_geometry(
        x["q"],
        x["k"],
        *(words[n] for n in ("grid", "radius", "window", "n_global", "global_first", "q_rows")),
    )
    return x["q"], x["k"], x["v"], x.get("extra_k"), x.get("extra_v"), list(geometry), 0.5, "eager"


@pytest.mark.parametrize("name", CASES)
def test_opcheck_passes(name):
    case = CASES[name]
    x = with_grad(case.inputs())
    opcheck(torch.ops.linzoo.local_attn.default, op_arguments(case, x))
    x = case.inputs()
    *args, scale, backend = op_arguments(case, x)
    y, lse = torch.ops.linzoo.local_attn(*args, scale, backend)
    *tensors, geometry = args
    opcheck(
        torch.ops.linzoo.local_attn_bwd.default,
        (torch.randn_like(y), torch.randn_like(lse), *tensors, y, lse, geometry, scale, backend),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_compile_fullgraph_forward_and_backward(name, backend):
    case = CASES[name]
    inputs = with_grad(case.inputs())
    fast = torch.compile(lambda **x: run(case, "auto", **x), fullgraph=True, backend=backend)
    wanted, got = run(case, "auto", **inputs), fast(**inputs)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)
    wanted_grads = gradients(*wanted, inputs)
    for name, grad in gradients(*got, inputs).items():
        torch.testing.assert_close(grad, wanted_grads[name])


def test_many_grids_do_not_recompile_for_ever():
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def call(x):
        tokens = x.flatten(1, 2).unsqueeze(2)
        return local_attn(tokens, tokens, tokens, grid=(x.shape[1], x.shape[2]), radius=3)

    fast = torch.compile(call, fullgraph=True, backend=counter)
    for size in ((6, 7), (8, 9), (9, 5), (11, 13), (16, 16), (7, 30)):
        x = torch.randn(1, *size, 4)
        torch.testing.assert_close(fast(x), call(x))
    assert 1 <= counter.frame_count <= 3


class Mixer(torch.nn.Module):
    """Text and a map of any size."""

    def forward(self, text, image):
        x = torch.cat((text, image.flatten(1, 2)), 1).unflatten(-1, (2, -1))
        grid = (image.shape[1], image.shape[2])
        y, lse = local_attn(x, x, x, grid=grid, radius=3, n_global=text.shape[1])
        return y, lse


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
def test_export_with_dynamic_sizes_keeps_the_op_and_survives_a_file(strict):
    dims = [torch.export.Dim(name, min=2, max=256) for name in ("text", "height", "width")]
    sizes = {"text": {1: dims[0]}, "image": {1: dims[1], 2: dims[2]}}
    small, large = ((torch.randn(2, t, 8), torch.randn(2, h, w, 8)) for t, h, w in ((5, 6, 7), (9, 17, 10)))
    program = torch.export.export(Mixer(), small, dynamic_shapes=sizes, strict=strict)
    assert {str(n.target) for n in program.graph.nodes if "linzoo" in str(n.target)} == {OP}
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for got, wanted in zip(loaded(*large), Mixer()(*large), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_autocast_casts_tokens_and_extra_keys_and_leaves_lse_alone(compiled):
    case = Case(n_global=3, extra=2, dtype=torch.float32, D=16, E=8)
    inputs = with_grad(case.inputs())

    def call(**x):
        return run(case, "auto", **x)

    fast = torch.compile(call, fullgraph=True, backend="aot_eager") if compiled else call
    with torch.autocast("cpu", torch.bfloat16):
        y, lse = fast(**inputs)
    assert y.dtype == torch.bfloat16 and lse.dtype == torch.float32
    wanted, wanted_lse = call(**{name: x.bfloat16() for name, x in inputs.items()})
    assert relative_error(y, wanted) < 5e-4 and torch.equal(lse, wanted_lse)
    assert {g.dtype for g in gradients(y, lse, inputs).values()} == {torch.float32}


def test_autocast_brings_mixed_dtypes_together():
    q, k = torch.randn(1, 30, 2, 4), torch.randn(1, 30, 2, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = local_attn(q, k, k, grid=(5, 6), radius=2, extra_kv=(q, k))
    low = q.bfloat16()
    assert torch.equal(y, local_attn(low, k, k, grid=(5, 6), radius=2, extra_kv=(low, k))[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fake_cuda_tensors_get_shapes_dtypes_and_device_from_the_triton_op(dtype):
    with FakeTensorMode():
        q, k = (torch.empty(2, 35, 4, 16, device="cuda", dtype=dtype) for _ in range(2))
        v = torch.empty(2, 35, 4, 8, device="cuda", dtype=dtype)
        extra = (q[:, :6], v[:, :6])
        y, lse = local_attn(q, k, v, grid=(5, 6), radius=2, n_global=5, extra_kv=extra)
        assert (tuple(y.shape), y.dtype, y.device.type, y.stride()) == (
            (2, 35, 4, 8),
            dtype,
            "cuda",
            (1120, 32, 8, 1),
        )
        assert (tuple(lse.shape), lse.dtype, lse.device.type) == ((2, 35, 4), torch.float32, "cuda")
        geometry = list(check_geometry(q, k, (5, 6), 2, None, 5, True, None))
        grads = torch.ops.linzoo.local_attn_bwd(y, lse, q, k, v, *extra, y, lse, geometry, 0.25, "triton")
        assert [g.shape for g in grads] == [x.shape for x in (q, k, v, *extra)]
        assert {g.dtype for g in grads} == {dtype}


def test_meta_tensors_run_forward_and_backward():
    x = with_grad({name: torch.empty(1, 30, 2, 4, device="meta") for name in "qkv"})
    y, lse = local_attn(**x, grid=(5, 6), radius=2)
    (y.sum() + lse.sum()).backward()
    assert x["k"].grad.shape == (1, 30, 2, 4) and x["k"].grad.device.type == "meta"


def test_the_backward_keeps_only_inputs_and_results():
    case = Case(extra=3)
    inputs = with_grad(case.inputs())
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        y, lse = run(case, "eager", **inputs)
    own = {x.data_ptr() for x in kept} - {x.data_ptr() for x in inputs.values()}
    assert own == {y.data_ptr(), lse.data_ptr()}


def test_memory_grows_with_the_number_of_tokens_not_with_its_square(monkeypatch):
    """Allocations of forward and backward, freed or not, at 4 and 16 times the tokens."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # blocks grow with threads

    def step(side: int) -> None:
        x = torch.randn(1, 32 + side * side, 3, 2, 16, requires_grad=True)
        y, _ = local_attn(*x.unbind(2), grid=(side, side), radius=4, n_global=32)
        y.sum().backward()

    small, middle, large = (allocated(lambda s=s: step(s)) for s in (32, 64, 128))
    assert middle < 4 * small and large < 4.2 * middle
