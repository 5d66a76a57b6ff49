"""The sparse convolutions under opcheck, torch.compile, torch.export, autocast, fake and meta tensors."""

import io
from dataclasses import replace

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.library import opcheck

from linzoo.kernels import ConvPairs, depthwise_sparse_conv, sparse_conv
from linzoo.kernels.sparse_conv import spconv_backend

from .sparse_conv_cases import CASES, Case, gradients
from .tolerances import relative_error

SUBMANIFOLD, STRIDED = (replace(CASES[i], dtype=torch.float32) for i in (1, 11))


def made(case: Case) -> tuple[dict[str, torch.Tensor], ConvPairs]:
    coords = case.coords()
    return case.inputs(len(coords)), case.pairs(coords)[0]


def both(x: dict[str, torch.Tensor], pairs: ConvPairs) -> torch.Tensor:
    """A convolution and a depthwise one over the same rows, in one tensor."""
    y = sparse_conv(x["x"], x["weight"], pairs, bias=x["bias"])
    return torch.cat((y, depthwise_sparse_conv(x["x"], x["scales"], pairs)), 1)


@pytest.mark.parametrize("case", [SUBMANIFOLD, STRIDED], ids=str)
def test_opcheck_passes(case):
    x, pairs = made(case)
    lists = (pairs.inputs, pairs.outputs, pairs.offsets)
    ops, words = torch.ops.linzoo, (pairs.identity, "eager")
    forward = (*lists, None, None, pairs.n_out, *words)
    opcheck(ops.sparse_conv.default, (x["x"], x["weight"], x["bias"], *forward))
    opcheck(ops.depthwise_sparse_conv.default, (x["x"], x["scales"], *forward))
    x = {name: t.detach() for name, t in x.items()}
    tests = ("test_schema", "test_faketensor")
    for need in ((True, True), (True, False), (False, True)):
        backward = (*lists, None, pairs.identity, *need, "eager")
        dense_dy, dy = torch.randn(pairs.n_out, case.cout), torch.randn(pairs.n_out, case.cin)
        args = (dense_dy, x["x"], x["weight"], *backward)
        opcheck(ops.sparse_conv_bwd.default, args, test_utils=tests)
        args = (dy, x["x"], x["scales"], *backward)
        opcheck(ops.depthwise_sparse_conv_bwd.default, args, test_utils=tests)


@pytest.mark.parametrize("case", [SUBMANIFOLD, STRIDED], ids=str)
def test_compile_fullgraph_forward_and_backward(case):
    x, pairs = made(case)
    fast = torch.compile(both, fullgraph=True, backend="aot_eager")
    got, wanted = fast(x, pairs), both(x, pairs)
    torch.testing.assert_close(got, wanted)
    wanted_grads = gradients(wanted, x)
    for name, grad in gradients(got, x).items():
        torch.testing.assert_close(grad, wanted_grads[name])


def test_frames_of_many_sizes_do_not_recompile_for_ever():
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    fast = torch.compile(both, fullgraph=True, backend=counter)
    for occupied in (0.2, 0.3, 0.5, 0.6, 0.8):
        x, pairs = made(replace(STRIDED, occupied=occupied))
        torch.testing.assert_close(fast(x, pairs), both(x, pairs))
    assert 1 <= counter.frame_count <= 3


class Layer(torch.nn.Module):
    """A convolution whose pair lists come as tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3, 3))
        self.scales = torch.nn.Parameter(torch.randn(3, 3, 3, 3))

    def forward(self, x, inputs, outputs, offsets):
        pairs = ConvPairs(
            inputs=inputs, outputs=outputs, offsets=offsets, n_in=x.shape[0], n_out=x.shape[0],
            kernel_size=(3, 3, 3), identity=13,
        )  # fmt: skip
        return sparse_conv(depthwise_sparse_conv(x, self.scales, pairs), self.weight, pairs)


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
def test_export_with_dynamic_numbers_of_rows_and_pairs_keeps_the_ops_and_survives_a_file(strict):
    rows, count = (torch.export.Dim(name, min=2, max=10000) for name in ("rows", "pairs"))
    sizes = ({0: rows}, {0: count}, {0: count}, None)

    def arguments(occupied: float) -> tuple[torch.Tensor, ...]:
        x, pairs = made(replace(SUBMANIFOLD, occupied=occupied))
        return x["x"].detach(), pairs.inputs, pairs.outputs, pairs.offsets

    layer = Layer()
    program = torch.export.export(layer, arguments(0.3), dynamic_shapes=sizes, strict=strict)
    found = {str(n.target) for n in program.graph.nodes if "linzoo" in str(n.target)}
    assert found == {"linzoo.sparse_conv.default", "linzoo.depthwise_sparse_conv.default"}
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    other = arguments(0.7)
    torch.testing.assert_close(torch.export.load(file).module()(*other), layer(*other))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_autocast_casts_features_and_weights_and_keeps_float32_gradients(compiled):
    x, pairs = made(SUBMANIFOLD)
    fast = torch.compile(both, fullgraph=True, backend="aot_eager") if compiled else both
    with torch.autocast("cpu", torch.bfloat16):
        y = fast(x, pairs)
    assert y.dtype == torch.bfloat16
    wanted = both({name: t.bfloat16() for name, t in x.items()}, pairs)
    assert relative_error(y, wanted) < 5e-4
    assert {g.dtype for g in gradients(y, x).values()} == {torch.float32}


def test_fake_cuda_tensors_get_shapes_dtypes_and_device_from_the_triton_op():
    with FakeTensorMode():
        x = torch.empty(50, 16, device="cuda", dtype=torch.bfloat16)
        weight, scales = x.new_empty(8, 3, 3, 3, 16), x.new_empty(3, 3, 3, 16)
        lists = (x.new_empty(90, dtype=torch.int64),) * 2 + (x.new_empty(28, dtype=torch.int32),)
        table, back = (x.new_empty(28, n, dtype=torch.int32) for n in (30, 50))
        words = (*lists, table, back, 30, -1, "triton")
        y = torch.ops.linzoo.sparse_conv(x, weight, None, *words)
        z = torch.ops.linzoo.depthwise_sparse_conv(x, scales, *words)
        assert [(tuple(t.shape), t.dtype, t.device.type) for t in (y, z)] == [
            ((30, width), torch.bfloat16, "cuda") for width in (8, 16)
        ]
        grads = torch.ops.linzoo.sparse_conv_bwd(y, x, weight, *lists, back, -1, True, True, "triton")
        assert [g.shape for g in grads] == [x.shape, weight.shape]


def test_meta_tensors_run_forward_and_backward():
    _, pairs = made(SUBMANIFOLD)
    pairs = replace(pairs, inputs=pairs.inputs.to("meta"), outputs=pairs.outputs.to("meta"), cache={})
    x = torch.empty(pairs.n_in, 3, device="meta", requires_grad=True)
    weight = torch.empty(4, 3, 3, 3, 3, device="meta", requires_grad=True)
    y = sparse_conv(x, weight, pairs, backend="auto")
    y.sum().backward()
    assert y.shape == (pairs.n_out, 4) and weight.grad.shape == weight.shape


def test_the_backward_keeps_inputs_and_lists_only():
    x, pairs = made(SUBMANIFOLD)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        both(x, pairs)
    given = {t.data_ptr() for t in (*x.values(), pairs.inputs, pairs.outputs, pairs.offsets)}
    assert {t.data_ptr() for t in kept} <= given


def test_scratch_is_the_largest_kernel_cell_not_all_pairs():
    """An im2col form would hold 27 rows of scratch for each row of a full grid."""
    from .test_linear_attn_memory import allocated

    case = Case(occupied=1.0, shape=(8, 8, 8), batch=1, cin=32, cout=32, dtype=torch.float32)
    x, pairs = made(case)
    size = 4 * pairs.n_out * case.cout
    weights = 4 * x["weight"].numel()
    with torch.no_grad():
        taken = allocated(lambda: sparse_conv(x["x"], x["weight"], pairs))
    assert taken <= 3 * size + 2 * weights


def test_spconv_computes_the_same_from_our_lists_and_weights():
    """Its native kernels on the CPU, where it has a forward; run where the package is installed."""
    pytest.importorskip("spconv.pytorch", exc_type=ImportError)
    for case in (SUBMANIFOLD, STRIDED, Case(occupied=1.0, dtype=torch.float32)):
        x, pairs = made(case)
        with torch.no_grad():
            got = spconv_backend.spconv_conv(x["x"], x["weight"], x["bias"], pairs)
            wanted = sparse_conv(x["x"], x["weight"], pairs, bias=x["bias"], backend="eager")
        torch.testing.assert_close(got, wanted)


def test_the_lists_in_spconvs_form_hold_every_pair():
    _, pairs = made(STRIDED)
    lists, counts = spconv_backend.indice_pairs(pairs)
    assert lists.dtype == counts.dtype == torch.int32 and counts.tolist() == pairs.offsets.diff().tolist()
    for k, count in enumerate(counts.tolist()):
        own = slice(int(pairs.offsets[k]), int(pairs.offsets[k + 1]))
        assert torch.equal(lists[0, k, :count].long(), pairs.inputs[own])
        assert torch.equal(lists[1, k, :count].long(), pairs.outputs[own])
        assert (lists[:, k, count:] == -1).all()
