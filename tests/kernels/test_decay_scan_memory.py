"""What a scan keeps and allocates at a time, counted: no noise, no clock."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from linzoo.kernels import decay_scan

from .cases import with_grad
from .decay_cases import FORMS, Case, run

FORM_KINDS = [(form, "constant" if form in ("symmetric", "max") else "channel") for form in FORMS]


@pytest.mark.parametrize("cu", [None, (0, 40, 41, 300)], ids=["rows", "segments"])
@pytest.mark.parametrize(("form", "kind"), FORM_KINDS)
def test_the_backward_keeps_nothing_larger_than_an_input(form, kind, cu):
    case = Case(form=form, kind=kind, N=300, D=8, E=8, B=1, cu=cu, initial=True)
    inputs = with_grad(case.inputs())
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        run(inputs, **case.options())
    given = {x.data_ptr() for x in inputs.values()}
    assert inputs["q"].data_ptr() in {x.data_ptr() for x in kept}
    own = [x for x in kept if x.data_ptr() not in given]
    assert max((x.numel() for x in own), default=0) <= 300 * case.H * (case.E + 1)
    if form != "max":  # its normaliser is left to autograd
        assert all(x.data_ptr() in given or x.numel() <= 4 for x in kept)


def peak(call) -> int:
    """Most bytes held at a time while ``call`` runs, beyond those at its start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        call()
    held = most = 0
    for event in run.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.mark.parametrize("kind", ["constant", "token", "channel"])
def test_memory_grows_with_tokens_no_faster_than_the_output(kind, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # groups grow with threads
    peaks, size = {}, {}
    for n in (8192, 16384):  # more than a group of tiles holds
        case = Case(kind=kind, N=n, B=1, D=32, E=32, dtype=torch.float32)
        inputs = with_grad(case.inputs())
        size[n] = 4 * inputs["q"].numel()

        def step(inputs=inputs):
            decay_scan(**inputs)[0].sum().backward()

        peaks[n] = peak(step)
    per_output = (peaks[16384] - peaks[8192]) / (size[16384] - size[8192])
    assert 1 <= per_output <= 8  # o, its gradient, three or four gradients of inputs and a state a group


def test_the_peak_sees_what_is_held():
    x = torch.randn(1000, 1000)
    assert peak(lambda: (x + 1) * 2) >= 2 * x.nbytes
