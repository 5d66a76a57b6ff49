"""What the scan must satisfy whatever the implementation, and what it keeps, counted."""

from itertools import pairwise

import pytest
import torch

from linzoo.kernels import decay_scan, selective_scan
from linzoo.kernels.selective_scan import order

from .selective_cases import Case, run, with_grad
from .test_decay_scan_memory import peak
from .tolerances import assert_close

BACKENDS = ("eager", "reference")
TOKENS = ("u", "delta", "B", "C")
CU = (0, 4, 4, 30, 31, 50)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reverse_equals_flipping_every_input_and_the_output(backend):
    x = Case(N=50, initial=True).inputs()
    flipped = x | {name: x[name].flip(1) for name in TOKENS}
    got, wanted = run(Case(N=50, reverse=True), x, backend), run(Case(N=50), flipped, backend)
    assert_close(got["y"], wanted["y"].flip(1), torch.float64)
    assert_close(got["state"], wanted["state"], torch.float64)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_segments_equal_separate_calls(backend, reverse):
    case = Case(N=50, cu=CU, initial=True, reverse=reverse)
    x = case.inputs()
    whole = run(case, x, backend)
    for g, (a, b) in enumerate(pairwise(CU)):
        if a == b:
            assert torch.equal(whole["state"][g], x["initial"][g])  # passed on
            continue
        own = x | {name: x[name][:, a:b] for name in TOKENS} | {"initial": x["initial"][g : g + 1]}
        alone = run(Case(reverse=reverse), own, backend)
        assert_close(whole["y"][:, a:b], alone["y"], torch.float64)
        assert_close(whole["state"][g : g + 1], alone["state"], torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cut", [1, 32, 45])
def test_a_call_that_continues_from_a_state_equals_one_call(backend, cut):
    x = Case(N=50, initial=True).inputs()
    whole = run(Case(), x, backend)
    first = run(Case(), x | {name: x[name][:, :cut] for name in TOKENS}, backend)
    rest = x | {name: x[name][:, cut:] for name in TOKENS} | {"initial": first["state"]}
    second = run(Case(), rest, backend)
    assert_close(torch.cat((first["y"], second["y"]), 1), whole["y"], torch.float64)
    assert_close(second["state"], whole["state"], torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_scan_is_decay_scan_with_one_value_a_head(backend):
    """H = C heads of D = S keys and E = 1 value: k = B, v = delta u, q = C, log decay = delta A."""
    x = Case(N=50, skip=False, initial=True).inputs()
    channels, size = x["A"].shape
    q, k = (x[name].unsqueeze(2).expand(-1, -1, channels, -1) for name in "CB")
    v = (x["delta"] * x["u"]).unsqueeze(-1)
    initial = x["initial"].unsqueeze(-1)
    o, state = decay_scan(q, k, v, x["delta"].unsqueeze(-1) * x["A"], initial=initial, backend="reference")
    got = run(Case(), x, backend)
    assert_close(got["y"], o.squeeze(-1), torch.float64)
    assert_close(got["state"], state.view(-1, channels, size), torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_later_tokens_do_not_reach_earlier_outputs(backend):
    x = Case(N=50).inputs()
    other = x | {name: torch.cat((x[name][:, :33], torch.randn_like(x[name][:, 33:])), 1) for name in TOKENS}
    a, b = run(Case(), x, backend)["y"], run(Case(), other, backend)["y"]
    assert torch.equal(a[:, :33], b[:, :33]) and not torch.equal(a[:, 33:], b[:, 33:])


def test_the_same_input_gives_the_same_bits():
    case = Case(N=100, cu=(0, 30, 31, 100), initial=True, dtype=torch.float32)
    x = case.inputs()
    for name, first in run(case, x).items():
        assert torch.equal(run(case, x)[name], first)


def test_short_segments_are_not_a_loop_over_tokens_of_each(monkeypatch):
    """64 segments of 1 to 20 tokens take 20 steps, without a padded token."""
    lengths = [1 + (7 * i) % 20 for i in range(64)]
    cu = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    u = torch.randn(1, sum(lengths), 2)
    (lanes,) = order.lanes(u, cu, False, width=4)
    assert sum(len(chunk.pattern.steps) for chunk in lanes.chunks) == 20
    tokens = torch.cat([chunk.tokens for chunk in lanes.chunks])
    assert sorted(tokens.tolist()) == list(range(sum(lengths)))


@pytest.mark.parametrize("lengths", [[1], [32], [33], [64, 1], [100, 32, 31, 0, 65]], ids=str)
def test_no_more_states_are_kept_than_there_is_room_for(lengths):
    cu = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    u = torch.randn(1, sum(lengths), 2)
    used = [
        range(chunk.kept, chunk.kept + chunk.lanes)
        for lanes in order.lanes(u, cu, False, width=4)
        for chunk in lanes.chunks
        if chunk.kept is not None
    ]
    rows = [row for own in used for row in own]
    assert rows == list(range(len(rows)))
    assert len(rows) <= order.kept_states(1, sum(lengths), packed=True)


@pytest.mark.parametrize("segments", [None, 16], ids=["rows", "segments"])
def test_memory_grows_with_tokens_by_a_few_inputs_not_by_their_states(segments):
    """The definition of others holds 2 S = 32 inputs forward; here S / 32 are kept."""
    forward, training, size = {}, {}, {}
    for n in (2048, 8192):
        cu = None if segments is None else tuple(range(0, n + 1, n // segments))
        case = Case(N=n, rows=1, C=64, S=16, cu=cu, dtype=torch.float32)
        inputs = case.inputs()
        leaves = with_grad(inputs)
        size[n] = inputs["u"].nbytes
        forward[n] = peak(lambda case=case, inputs=inputs: run(case, inputs))
        training[n] = peak(lambda case=case, leaves=leaves: run(case, leaves)["y"].sum().backward())
    grown = size[8192] - size[2048]
    assert 1 <= (forward[8192] - forward[2048]) / grown <= 1.6  # y, and the order of tokens
    assert (
        2 <= (training[8192] - training[2048]) / grown <= 6
    )  # y, dy, du, ddelta, dB, dC and the kept states


def test_nothing_but_inputs_and_kept_states_is_saved_for_the_backward():
    case = Case(N=300, C=8, S=8, initial=True)
    inputs = with_grad(case.inputs())
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        run(case, inputs)
    given = {x.data_ptr() for x in inputs.values()}
    own = [x for x in saved if x.data_ptr() not in given]
    assert [tuple(x.shape) for x in own] == [(2 * (299 // order.CHUNK), 8, 8)]


def test_without_gradients_no_state_is_kept():
    case = Case(N=4096, rows=1, C=64, S=16, dtype=torch.float32)
    inputs = with_grad(case.inputs())

    def inference():
        with torch.no_grad():
            selective_scan(**inputs)

    kept = (4095 // order.CHUNK) * 64 * 16 * 4
    assert peak(lambda: selective_scan(**inputs)) - peak(inference) >= 0.9 * kept
