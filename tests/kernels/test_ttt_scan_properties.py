"""What the scan promises beyond agreement: order, composition, segments, views, bits, memory."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from linzoo.kernels import ttt_scan
from linzoo.kernels.decay_scan import tiles

from .cases import with_grad
from .tolerances import assert_close
from .ttt_cases import Case, gradients, loss, run

BACKENDS = ("eager", "reference")
TOKENS = ("q", "k", "v", "rate")


def part(inputs, tokens):
    return {name: x[:, tokens] if name in TOKENS else x for name, x in inputs.items()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_token_sees_no_later_one(backend):
    case = Case(N=23, size=8)
    inputs, options = case.inputs(), case.options()
    whole = run(inputs, **options, backend=backend)["o"]
    for n in (1, 8, 13):
        assert_close(
            run(part(inputs, slice(n)), **options, backend=backend)["o"], whole[:, :n], torch.float64
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_call_that_starts_from_the_state_of_full_mini_batches_continues_them(backend):
    case = Case(N=23, size=8)
    inputs, options = case.inputs(), case.options()
    whole = run(inputs, **options, backend=backend)
    first = run(part(inputs, slice(16)), **options, backend=backend)
    rest = part(inputs, slice(16, None)) | {"W0": first["W"], "b0": first["b"]}
    second = run(rest, **options, backend=backend)
    assert_close(torch.cat([first["o"], second["o"]], 1), whole["o"], torch.float64)
    for name in "Wb":
        assert_close(second[name], whole[name], torch.float64, name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_segments_equal_separate_calls_and_empty_ones_pass_their_state_on(backend):
    case = Case(N=40, size=8, cu=(0, 0, 11, 12, 12, 40))
    inputs, options = case.inputs(), case.options()
    packed = run(inputs, **options, backend=backend)
    for r, (a, b) in enumerate([(0, 0), (0, 11), (11, 12), (12, 12), (12, 40)]):
        if a == b:
            assert torch.equal(packed["W"][r], inputs["W0"]) and torch.equal(packed["b"][r], inputs["b0"])
            continue
        alone = run(part(inputs, slice(a, b)), size=8, backend=backend)
        assert_close(packed["o"][:, a:b], alone["o"], torch.float64)
        for name in "Wb":
            assert_close(packed[name][r : r + 1], alone[name], torch.float64, name)


def test_the_mini_batch_is_part_of_the_model():
    inputs = Case(size=8).inputs()
    shorter = inputs | {"position_rate": inputs["position_rate"][:4]}
    assert not torch.allclose(run(inputs, size=8)["o"], run(shorter, size=4)["o"], rtol=1e-3)


def test_without_learning_rates_the_weights_stay_and_are_applied():
    inputs = Case().inputs()
    inputs["rate"] = torch.zeros_like(inputs["rate"])
    got = run(inputs, size=4)
    q = inputs["q"]
    z = torch.einsum("bnhd,hde->bnhe", q, inputs["W0"]) + inputs["b0"]
    normal = torch.nn.functional.layer_norm(z, z.shape[-1:], eps=1e-6)
    assert_close(got["o"], q + inputs["gamma"] * normal + inputs["beta"], torch.float64)
    assert torch.equal(got["W"], inputs["W0"].expand_as(got["W"]))


def test_training_on_the_same_tokens_again_and_again_lowers_their_loss():
    torch.manual_seed(1)
    case = Case(B=1, N=16, size=16, D=8)
    inputs = case.inputs() | {"rate": torch.full((1, 16, 2), 0.02, dtype=torch.float64)}
    again = {
        name: x.repeat(1, 30, *[1] * (x.dim() - 2)) if name in TOKENS else x for name, x in inputs.items()
    }
    trained = run(again, size=16)

    def error(W, b):
        z = torch.einsum("bnhd,hde->bnhe", inputs["k"], W) + b
        y = inputs["gamma"] * torch.nn.functional.layer_norm(z, z.shape[-1:], eps=1e-6) + inputs["beta"]
        return (y - inputs["v"] + inputs["k"]).square().mean()

    assert error(trained["W"][0], trained["b"][0]) < 0.8 * error(inputs["W0"], inputs["b0"])


def test_eps_reaches_both_normalisations():
    inputs = Case().inputs()
    small, large = (ttt_scan(**inputs, size=4, eps=eps) for eps in (1e-6, 1e-1))
    assert not torch.allclose(small[0], large[0], rtol=1e-3)
    assert not torch.allclose(small[1][0], large[1][0], rtol=1e-3)


@pytest.mark.parametrize("cu", [None, (0, 100, 101, 300)], ids=["rows", "segments"])
def test_the_same_input_gives_the_same_bits_and_arguments_are_left_as_they_were(cu):
    case = Case(N=300, D=8, B=1, size=16, cu=cu, dtype=torch.float32)
    inputs = with_grad(case.inputs())
    before = {name: x.detach().clone() for name, x in inputs.items()}
    runs = []
    for _ in range(2):
        results = run(inputs, **case.options())
        runs.append([*results.values(), *gradients(results, inputs).values()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert all(torch.equal(before[name], x) for name, x in inputs.items())


def test_views_of_a_fused_projection_give_the_bits_of_copies():
    inputs = Case(N=90, size=16, dtype=torch.float32).inputs()
    q, k, v = torch.randn(2, 90, 3, 2, 4).unbind(2)
    views = run(inputs | {"q": q, "k": k, "v": v}, size=16)["o"]
    copies = run(inputs | {"q": q.clone(), "k": k.clone(), "v": v.clone()}, size=16)["o"]
    assert torch.equal(views, copies)


def test_gradients_of_o_alone_and_of_the_state_alone_add_up():
    case = Case(states=True)
    inputs = with_grad(case.inputs())
    results = run(inputs, **case.options())
    both = torch.autograd.grad(loss(results), list(inputs.values()), retain_graph=True)
    parts = [
        torch.autograd.grad(
            loss({n: results[n]}), list(inputs.values()), retain_graph=True, materialize_grads=True
        )
        for n in ("o", "W", "b")
    ]
    for name, whole, *pieces in zip(inputs, both, *parts, strict=True):
        assert_close(sum(pieces), whole, torch.float64, name, slack=10)


@pytest.mark.parametrize("cu", [None, (0, 40, 41, 300)], ids=["rows", "segments"])
def test_the_backward_keeps_the_inputs_and_nothing_else_of_their_size(cu):
    case = Case(N=300, D=8, B=1, size=16, cu=cu, states=True)
    inputs = with_grad(case.inputs())
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        run(inputs, **case.options())
    given = {x.data_ptr() for x in inputs.values()}
    assert inputs["q"].data_ptr() in {x.data_ptr() for x in kept}
    assert all(x.data_ptr() in given or x.numel() <= 4 for x in kept)


def peak(call) -> int:
    """Most bytes held at a time while ``call`` runs, beyond those at its start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    held = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def test_memory_grows_with_tokens_no_faster_than_the_output(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # groups grow with threads
    monkeypatch.setattr(tiles, "CACHE_ELEMENTS", 1 << 14)  # several groups in the shorter call too
    peaks, size = {}, {}
    for n in (1024, 4096):
        inputs = with_grad(Case(N=n, B=1, D=16, H=4, size=16, dtype=torch.float32).inputs())
        size[n] = 4 * inputs["q"].numel()

        def step(inputs=inputs):
            run(inputs, size=16)["o"].sum().backward()

        peaks[n] = peak(step)
    per_output = (peaks[4096] - peaks[1024]) / (size[4096] - size[1024])
    assert 1 <= per_output <= 8  # o, its gradient, gradients of q, k, v and states at the groups' starts
