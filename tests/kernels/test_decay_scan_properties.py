"""What a decayed recurrence must satisfy whatever computes it."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from linzoo.kernels import MaxState, decay_scan, lin_reduce

from .cases import with_grad
from .decay_cases import BLOCK, FORMS, KINDS, Case, gradients, loss, run
from .tolerances import assert_close

BACKENDS = ("eager", "reference")
FORM_KINDS = [(form, "constant" if form in ("symmetric", "max") else "channel") for form in FORMS]


def along_tokens(x: dict[str, Tensor], index) -> dict[str, Tensor]:
    """The tokens ``index`` of every tensor that has them."""
    whole = ("bonus", "S", "n", "m", *(["log_decay"] if x["log_decay"].dim() == 1 else []))
    return {name: t if name in whole else t[:, index] for name, t in x.items()}


def only_options(case: Case, *names: str) -> dict[str, object]:
    return {name: value for name, value in case.options().items() if name not in names}


@pytest.mark.parametrize("cut", [1, 10, 60, 99])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(("form", "kind"), FORM_KINDS)
def test_a_call_that_starts_from_the_state_of_another_continues_it(form, kind, reverse, cut):
    if form == "symmetric":
        cut = max(cut // BLOCK * BLOCK, BLOCK)
    case = Case(form=form, kind=kind, N=100, initial=True, reverse=reverse)
    inputs, options = with_grad(case.inputs()), case.options()
    whole = run(inputs, **options)
    one, two = (slice(100 - cut, None), slice(100 - cut)) if reverse else (slice(cut), slice(cut, None))
    first = run(along_tokens(inputs, one), **options)
    carried = {name: x for name, x in first.items() if name != "o"}
    second = run(along_tokens(inputs, two) | carried, **options)
    parts = [second["o"], first["o"]] if reverse else [first["o"], second["o"]]
    joined = {"o": torch.cat(parts, 1)} | {name: second[name] for name in carried}
    for name, x in whole.items():
        assert_close(joined[name], x, torch.float64, name)
    wanted = gradients(whole, inputs)
    for name, grad in gradients(joined, inputs).items():
        assert_close(grad, wanted[name], torch.float64, f"d{name}", slack=10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cu", [None, (0, 5, 6, 6, 23)], ids=["rows", "segments"])
@pytest.mark.parametrize(("form", "kind"), FORM_KINDS)
def test_reverse_is_the_scan_of_flipped_tokens_flipped_back(form, kind, cu, backend):
    case = Case(form=form, kind=kind, N=23, initial=True, cu=cu)
    inputs, options = case.inputs(), only_options(case, "reverse")
    back = run(inputs, **options, reverse=True, backend=backend)
    if cu is not None:
        options["cu_seqlens"] = 23 - options["cu_seqlens"].flip(0)
        inputs |= {name: inputs[name].flip(0) for name in "Snm" if name in inputs}
    flipped = run(along_tokens(inputs, torch.arange(22, -1, -1)), **options, backend=backend)
    assert_close(back["o"], flipped["o"].flip(1), torch.float64, "o")
    for name in back.keys() - {"o"}:
        state = flipped[name] if cu is None else flipped[name].flip(0)
        assert_close(back[name], state, torch.float64, name)


@pytest.mark.parametrize("form", ["plain", "bonus", "exclusive", "rwkv"])
def test_a_constant_decay_is_a_decay_per_token_and_per_channel_of_equal_values(form):
    results = []
    inputs = Case(form=form, kind="constant", N=70).inputs()
    shapes = {"constant": (2,), "token": (2, 70, 2), "channel": (2, 70, 2, 4)}
    for kind in KINDS:
        own = with_grad(inputs)
        per_head = own["log_decay"].view(2, 1) if kind == "channel" else own["log_decay"]
        got = run(own | {"log_decay": per_head.expand(shapes[kind])}, **Case(form=form).options())
        results.append((got, gradients(got, own)))
    for got, grads in results[1:]:
        for name, x in results[0][0].items():
            assert_close(got[name], x, torch.float64, name)
        for name, x in results[0][1].items():
            assert_close(grads[name], x, torch.float64, f"d{name}", slack=10)


@pytest.mark.parametrize(("form", "kind"), FORM_KINDS)
def test_heads_do_not_meet(form, kind):
    case = Case(form=form, kind=kind, H=5, N=40, initial=True)
    inputs, order = case.inputs(), torch.tensor([3, 0, 4, 2, 1])
    axis = {name: 0 if name == "bonus" or x.dim() == 1 else 2 for name, x in inputs.items()}
    axis |= {"S": 1, "n": 1, "m": 1}
    mixed = {name: x.index_select(axis[name], order) for name, x in inputs.items()}
    whole, got = run(inputs, **case.options()), run(mixed, **case.options())
    for name, x in whole.items():
        assert torch.equal(got[name], x.index_select(2 if name == "o" else 1, order)), name


@pytest.mark.parametrize(("form", "kind"), FORM_KINDS)
def test_later_tokens_do_not_change_earlier_outputs_beyond_a_symmetric_block(form, kind):
    inputs, options = (case := Case(form=form, kind=kind, N=40)).inputs(), case.options()
    before = run(inputs, **options)["o"]
    for name in inputs.keys() & {"q", "k", "v", "input_gate"}:
        inputs[name][:, 25:] += 3  # a block's first token
    after = run(inputs, **options)["o"]
    assert torch.equal(before[:, :25], after[:, :25])
    assert (before[:, 25:] - after[:, 25:]).abs().amin(-1).max() > 0.01


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_decay_the_state_is_that_of_linear_attention(backend):
    q, k, v = (torch.rand(2, 50, 2, d, dtype=torch.float64) for d in (4, 4, 3))
    o, state = decay_scan(q, k, v, torch.zeros(2, dtype=torch.float64), backend=backend)
    assert_close(state, lin_reduce(k, v).S, torch.float64)
    assert_close(o[:, -1], torch.einsum("bhd,bhde->bhe", q[:, -1], state), torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", [form for form in FORMS if form != "symmetric"])
def test_a_reset_forgets_everything_before_it(form, backend):
    case = Case(form=form, kind="token" if form == "max" else "channel", N=40, dtype=torch.float32)
    inputs, options = case.inputs(), case.options() | {"backend": backend}
    inputs["log_decay"][:, 20] = -torch.inf
    after = 21 if form in ("exclusive", "rwkv") else 20  # an exclusive token reads before it decays
    whole, alone = run(inputs, **options), run(along_tokens(inputs, slice(20, None)), **options)
    assert_close(whole["o"][:, after:], alone["o"][:, after - 20 :], torch.float32)
    assert_close(whole["S"], alone["S"], torch.float32)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(("form", "kind"), FORM_KINDS)
def test_segments_equal_separate_calls_and_empty_ones_pass_their_state_on(form, kind, reverse):
    cu = (0, 0, 40, 41, 41, 100)
    case = Case(form=form, kind=kind, N=100, cu=cu, initial=True, reverse=reverse)
    inputs, options = case.inputs(), only_options(case, "cu_seqlens")
    packed = run(inputs, **options, cu_seqlens=torch.tensor(cu, dtype=torch.int32))
    for r, (a, b) in enumerate(pairwise(cu)):
        own = along_tokens(inputs, slice(a, b))
        own |= {name: inputs[name][r : r + 1] for name in inputs.keys() & {"S", "n", "m"}}
        if a == b:
            for name in inputs.keys() & {"S", "n", "m"}:
                assert torch.equal(packed[name][r : r + 1], own[name]), name
            continue
        alone = run(own, **options)
        assert_close(packed["o"][:, a:b], alone["o"], torch.float64)
        for name in alone.keys() - {"o"}:
            assert_close(packed[name][r : r + 1], alone[name], torch.float64, name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_states_of_no_tokens_are_zero(backend):
    case = Case(form="max", kind="token", cu=(0, 0, 17))
    state = run(case.inputs(), **case.options(), backend=backend)
    assert (state["S"][0].abs().max(), state["n"][0].abs().max()) == (0, 0)
    assert torch.equal(state["m"][0], torch.full((2,), -1e30, dtype=torch.float64))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("first", [False, True], ids=["inside", "from the start"])
def test_a_closed_input_gate_leaves_a_token_out(first, backend):
    case = Case(form="max", kind="token", N=30)
    inputs = case.inputs()
    shut = slice(0, 6) if first else slice(10, 16)
    inputs["input_gate"][:, shut] = -torch.inf
    inputs["log_decay"][:, shut] = 0
    keep = [t for t in range(30) if not shut.start <= t < shut.stop]
    own = with_grad(inputs)
    whole, alone = (
        run(own, **case.options(), backend=backend),
        run(along_tokens(inputs, keep), **case.options()),
    )
    assert_close(whole["o"][:, keep], alone["o"], torch.float64)
    for name in "Snm":
        assert_close(whole[name], alone[name], torch.float64, name)
    for name, grad in gradients(whole, own).items():
        assert grad.isfinite().all(), name
        if name in ("k", "v"):
            assert grad[:, shut].abs().max() == 0, name


@pytest.mark.parametrize("size", [-90.0, 90.0], ids=["small", "large"])
def test_input_gates_beyond_the_range_of_exp_are_stabilised(size):
    case = Case(form="max", kind="token", N=50, D=8, B=1, dtype=torch.float32)
    inputs = case.inputs()
    inputs["input_gate"] = inputs["input_gate"] + size
    own, exact = with_grad(inputs), with_grad({name: x.double() for name, x in inputs.items()})
    got, wanted = run(own, **case.options()), run(exact, **case.options(), backend="reference")
    for name, x in wanted.items():
        assert got[name].isfinite().all(), name
        if size > 0 or name != "o":  # with weights of e^-90 the outputs are 1e-39
            assert_close(got[name], x, torch.float32, name, slack=40)  # the gates themselves are rounded
    assert all(grad.isfinite().all() for grad in gradients(got, own).values())


@pytest.mark.parametrize("cu", [None, (0, 100, 101, 300)], ids=["rows", "segments"])
@pytest.mark.parametrize(("form", "kind"), FORM_KINDS)
def test_the_same_input_gives_the_same_bits(form, kind, cu):
    case = Case(form=form, kind=kind, N=300, D=16, E=16, B=1, cu=cu, dtype=torch.float32)
    inputs = with_grad(case.inputs())
    runs = []
    for _ in range(2):
        results = run(inputs, **case.options())
        runs.append([*results.values(), *gradients(results, inputs).values()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_views_of_a_fused_projection_and_of_channel_first_maps_give_the_bits_of_copies(reverse):
    fused = torch.randn(2, 90, 3, 4, 16)
    channels_first = torch.randn(2, 4, 16, 90).permute(0, 3, 1, 2)
    decay = -torch.rand(2, 4, 16, 90).permute(0, 3, 1, 2)
    for q, k, v in (fused.unbind(2), (channels_first,) * 3):
        views, _ = decay_scan(q, k, v, decay, reverse=reverse)
        copies, _ = decay_scan(*(x.contiguous() for x in (q, k, v, decay)), reverse=reverse)
        assert torch.equal(views, copies)


@pytest.mark.parametrize(("form", "kind"), FORM_KINDS)
def test_arguments_are_left_as_they_were(form, kind):
    case = Case(form=form, kind=kind, initial=True)
    inputs = case.inputs()
    before = {name: x.clone() for name, x in inputs.items()}
    own = {name: x.requires_grad_() for name, x in inputs.items()}
    results = run(own, **case.options())
    results["S"].sum().backward()
    for name, x in before.items():
        assert torch.equal(own[name].detach(), x), name


def test_gradients_of_o_alone_and_of_the_state_alone_add_up():
    case = Case(initial=True)
    inputs = with_grad(case.inputs())
    results = run(inputs, **case.options())
    both = dict(
        zip(inputs, torch.autograd.grad(loss(results), [*inputs.values()], retain_graph=True), strict=True)
    )
    for name, x in both.items():
        parts = [
            torch.autograd.grad(loss({part: results[part]}), inputs[name], retain_graph=True)[0]
            for part in "oS"
        ]
        assert_close(sum(parts), x, torch.float64, name, slack=10)


def test_a_named_tuple_holds_the_normalised_state():
    case = Case(form="max", kind="token")
    inputs = case.inputs()
    _, state = decay_scan(**inputs, normalizer="max")
    assert isinstance(state, MaxState)
    assert [tuple(x.shape) for x in state] == [(2, 2, 4, 3), (2, 2, 4), (2, 2)]


@pytest.mark.parametrize("cu", [None, (0, 5, 6, 17)], ids=["rows", "segments"])
@pytest.mark.parametrize(
    ("form", "kind"),
    [("plain", "constant"), ("symmetric", "constant"), ("rwkv", "token"), ("plain", "channel")],
)
def test_decays_that_need_no_gradient_leave_the_other_gradients_as_they_are(form, kind, cu):
    case = Case(form=form, kind=kind, cu=cu, initial=True)
    inputs, options = case.inputs(), case.options()
    all_of_them = with_grad(inputs)
    wanted = gradients(run(all_of_them, **options), all_of_them)
    others = with_grad({name: x for name, x in inputs.items() if name != "log_decay"})
    results = run(others | {"log_decay": inputs["log_decay"]}, **options)
    for name, grad in gradients(results, others).items():
        assert torch.equal(grad, wanted[name]), name
