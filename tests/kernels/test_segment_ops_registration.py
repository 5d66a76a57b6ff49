"""Segment ops: refusals, and opcheck, torch.compile, torch.export, fake and meta tensors."""

import io
import re

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.library import opcheck

from linzoo.kernels import BackendError, ShapeError, segment_gather, segment_sum

X, INDEX = torch.randn(5, 3), torch.tensor([3, 0, 0, 2, 3])


@pytest.mark.parametrize(
    ("words", "kind", "text"),
    [
        ({"x": [1.0]}, TypeError, "x must be a tensor (N, C...), got list"),
        ({"x": torch.tensor(1.0)}, ShapeError, "x must have at least 1 dimension (N, C...), got ()"),
        ({"x": X[:, :0]}, ShapeError, "x must have no dimension of size 0 in C... of (N, C...), got (5, 0)"),
        ({"x": X.long()}, ShapeError, "x must be float64, float32, bfloat16 or float16, got torch.int64"),
        ({"index": [0]}, TypeError, "index must be a tensor (N,), got list"),
        ({"index": INDEX[:, None]}, ShapeError, "index must have 1 dimension (N,), got (5, 1)"),
        ({"index": INDEX[:4]}, ShapeError, "index must have x's number of rows N = 5, got 4"),
        ({"index": INDEX.int()}, ShapeError, "index must be torch.int64 for x of torch.float32"),
        ({"index": INDEX.to("meta")}, ShapeError, "index must be on x's device cpu, got meta"),
        ({"index": INDEX - 1}, ShapeError, "index must be in 0 .. 3, got -1 .. 2"),
        ({"segments": 3}, ShapeError, "index must be in 0 .. 2, got 0 .. 3"),
        ({"segments": -1}, ValueError, "segments must be >= 0, got -1"),
        ({"segments": 2.0}, TypeError, "segments must be an integer, got float"),
        ({"backend": "tritn"}, ValueError, "got 'tritn' (did you mean 'triton'?)"),
    ],
    ids=range(14),
)
def test_arguments_that_make_no_sum_are_refused(words, kind, text):
    given = {"x": X, "index": INDEX, "segments": 4} | words
    with pytest.raises(kind, match="segment_sum: .*" + re.escape(text)):
        segment_sum(**given)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"x": torch.tensor(1.0)}, "x must have at least 1 dimension (S, C...), got ()"),
        ({"index": INDEX + 2}, "index must be in 0 .. 4, got 2 .. 5"),
        ({"index": INDEX.float()}, "index must be torch.int64 for x of torch.float32"),
    ],
    ids=range(3),
)
def test_arguments_that_make_no_gather_are_refused(words, text):
    given = {"x": X, "index": INDEX} | words
    with pytest.raises(ShapeError, match="segment_gather: " + re.escape(text)):
        segment_gather(**given)


def test_a_compiled_call_refuses_values_too():
    fast = torch.compile(lambda x, i: segment_sum(x, i, 4), fullgraph=True, backend="aot_eager")
    with pytest.raises(ShapeError, match=r"segment_sum: index must be in 0 \.\. 3, got 1 \.\. 4"):
        fast(X, INDEX + 1)


def test_backends_that_cannot_run_say_why():
    with pytest.raises(BackendError, match=r"segment_sum: no backend .*triton: tensors are on cpu"):
        segment_sum(X, INDEX, 4, backend="triton")
    with pytest.raises(BackendError, match=r"segment_sum: backend must be 'reference' under torch\.func"):
        torch.func.grad(lambda x: segment_sum(x, INDEX, 4).sum())(X)
    grad = torch.func.grad(lambda x: segment_gather(x, INDEX, backend="reference").sum())(X)
    assert torch.equal(grad[:, 0], torch.bincount(INDEX, minlength=5).float())


def test_opcheck_passes():
    x = X.clone().requires_grad_()
    opcheck(torch.ops.linzoo.segment_sum.default, (x, INDEX, 4, "eager"))
    opcheck(torch.ops.linzoo.segment_gather.default, (x, INDEX, "eager"))


def pooled(x: torch.Tensor, index: torch.Tensor, segments: int = 4) -> torch.Tensor:
    return segment_gather(segment_sum(x, index, segments).tanh(), index)


def test_compile_fullgraph_forward_and_backward():
    a, b = (X.clone().requires_grad_() for _ in range(2))
    got = torch.compile(pooled, fullgraph=True, backend="aot_eager")(a, INDEX)
    wanted = pooled(b, INDEX)
    torch.testing.assert_close(got, wanted)
    (got * X).sum().backward()
    (wanted * X).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


class Pooling(torch.nn.Module):
    def forward(self, x, index, state):
        return segment_sum(x, index, state.shape[0]) + state


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
def test_export_with_dynamic_sizes_keeps_the_op_and_survives_a_file(strict):
    rows, segments = (torch.export.Dim(name, min=2, max=1000) for name in ("rows", "segments"))
    shapes = ({0: rows}, {0: rows}, {0: segments})
    program = torch.export.export(
        Pooling(), (X, INDEX, torch.zeros(4, 3)), dynamic_shapes=shapes, strict=strict
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    other = (torch.randn(9, 3), torch.arange(9) % 6, torch.zeros(6, 3))
    torch.testing.assert_close(torch.export.load(file).module()(*other), Pooling()(*other))
    assert {str(n.target) for n in program.graph.nodes if "linzoo" in str(n.target)} == {
        "linzoo.segment_sum.default"
    }


def test_fake_cuda_and_meta_tensors_get_shapes_dtypes_and_devices():
    with FakeTensorMode():
        x = torch.empty(5, 2, 3, device="cuda", dtype=torch.bfloat16)
        y = pooled(x, torch.empty(5, dtype=torch.int64, device="cuda"), 9)
        assert (tuple(y.shape), y.dtype, y.device.type) == ((5, 2, 3), torch.bfloat16, "cuda")
    x = X.to("meta").requires_grad_()
    pooled(x, INDEX.to("meta")).sum().backward()
    assert x.grad.shape == (5, 3)
