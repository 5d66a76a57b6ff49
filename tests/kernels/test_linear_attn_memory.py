"""What an eager call allocates, counted by the profiler: no noise, no clock."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from linzoo.kernels import linear_attn

from .cases import Case, with_grad

SHAPES = [(8, 8, 3136, 32), (1, 8, 16384, 40), (1, 10, 16384, 64), (1, 24, 4096, 128)]


def allocated(call) -> int:
    """Bytes of every allocation made while ``call`` runs, freed or not."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        call()
    events = run.profiler.kineto_results.events()
    return sum(max(e.nbytes(), 0) for e in events if e.name() == "[memory]")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_call_allocates_at_most_1_3_times_its_output(shape, dtype, monkeypatch):
    batch, heads, tokens, width = shape
    q, k, v = torch.randn(batch, tokens, 3, heads, width).to(dtype).unbind(2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # blocks grow with threads
    output = batch * heads * tokens * width * q.element_size()
    total = allocated(lambda: linear_attn(q, k, v, feature="elu1"))
    assert output <= total <= 1.3 * output, total / output


@pytest.mark.parametrize(("segment", "most"), [(64, 3.8), (16384, 3.9)])
def test_a_call_on_packed_rows_allocates_what_the_readme_says(segment, most, monkeypatch):
    q, k, v = torch.randn(1, 16384, 3, 8, 64).unbind(2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    cu = torch.arange(0, 16385, segment, dtype=torch.int32)
    total = allocated(lambda: linear_attn(q, k, v, feature="elu1", cu_seqlens=cu))
    assert total <= most * q.numel() * 4


@pytest.mark.parametrize("norm", ["sum", "clamp", "mag", "sub"])
@pytest.mark.parametrize("cu", [None, (0, 40, 41, 300)], ids=["rows", "segments"])
def test_the_backward_keeps_only_inputs_and_states(cu, norm):
    case = Case(norm=norm, weight=norm in ("sum", "clamp"), rope=True, mask=True, N=300, cu=cu)
    inputs, options = with_grad(case.inputs()), case.options()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        linear_attn(**inputs, **options)
    given = {x.data_ptr() for x in (*inputs.values(), *options.get("rope", ()), options["mask"])}
    if cu:
        given.add(options["cu_seqlens"].data_ptr())
    states = (len(cu) - 1 if cu else 2) * case.H * max(case.D * case.E, case.D, case.E)
    own = {x.data_ptr(): x.numel() for x in kept if x.data_ptr() not in given}
    assert inputs["q"].data_ptr() in {x.data_ptr() for x in kept}
    assert len(own) == 4  # S, s, m, n
    assert max(own.values()) <= states


def test_the_count_sees_temporaries():
    x = torch.randn(1000, 1000)
    assert allocated(lambda: (x + 1) * 2) >= 2 * x.nbytes
