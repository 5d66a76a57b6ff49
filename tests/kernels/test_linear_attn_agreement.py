"""Every implementation against the float64 oracle, forward and every gradient."""

import pytest
import torch
from torch.autograd import gradcheck

from linzoo.kernels import LinState, lin_readout, lin_reduce, linear_attn
from linzoo.kernels.linear_attn import blocks
from linzoo.kernels.linear_attn.plain import lin_readout_plain, lin_reduce_plain

from . import oracle
from .cases import CU_SEQLENS, Case, every, gradients, with_grad
from .tolerances import RELATIVE, SIGNED, assert_close, relative_error


def run_plain(q, k, v, *, norm, feature, eps=1e-6, scale=None, cmin=None, rope=None, weight=None, mask=None):
    """The form that compilers trace, called directly."""
    state = lin_reduce_plain(k, v, weight, mask, rope, feature, norm == "sub" and rope is None)
    scale = q.shape[-1] ** -0.5 if norm in ("mag", "sub") else scale
    return lin_readout_plain(q, state, rope, feature, norm, eps, "mean", scale, cmin)


def forms(case: Case):
    yield "eager", lambda **kw: linear_attn(**kw, backend="eager")
    yield "reference", lambda **kw: linear_attn(**kw, backend="reference")
    if case.cu is None:
        yield "plain", run_plain


@pytest.mark.parametrize("case", every(), ids=str)
def test_every_form_matches_the_oracle_forward_and_every_gradient(case):
    inputs, options = case.inputs(), case.options()
    exact = with_grad(inputs)
    wanted = oracle.attention(**exact, **case.oracle_options(options))
    wanted_grads = gradients(wanted, exact)
    for form, run in forms(case):
        own = with_grad(inputs)
        got = run(**own, **options)
        assert_close(got, wanted, torch.float64, form)
        for name, grad in gradients(got, own).items():
            assert_close(grad, wanted_grads[name], torch.float64, f"{form} d{name}", slack=10)


@pytest.mark.parametrize("case", every(B=1, N=7, H=1, cu=None, mask=False), ids=str)
def test_gradcheck_in_float64(case):
    check(case)


@pytest.mark.parametrize("case", every(N=7, H=1, cu=(0, 0, 4, 7), mask=True), ids=str)
def test_gradcheck_in_float64_with_segments_and_mask(case):
    check(case)


def check(case: Case) -> None:
    tensors, options = with_grad(case.inputs()), case.options()
    names = list(tensors)
    gradcheck(
        lambda *xs: linear_attn(**dict(zip(names, xs, strict=True)), **options, backend="eager"),
        tuple(tensors.values()),
        fast_mode=True,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("n", [1, 7, 64, 65, 200], ids="N{}".format)
@pytest.mark.parametrize("dims", [(8, 8), (16, 24), (32, 32), (40, 40), (64, 32), (128, 64)], ids=str)
def test_sizes_and_dtypes_match_the_oracle(dims, n, dtype):
    case = Case(N=n, D=dims[0], E=dims[1], dtype=dtype)
    inputs = case.inputs()
    wanted = oracle.attention(**inputs, **case.options())
    got = linear_attn(**inputs, **case.options())
    assert got.dtype == dtype
    assert_close(got, wanted, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cu", [None, (0, 0, 70, 71, 200)], ids=["rows", "segments"])
@pytest.mark.parametrize("rope", [False, True], ids=["plain", "rope"])
@pytest.mark.parametrize("norm", ["sum", "clamp", "mag", "sub"])
def test_norms_match_the_oracle_in_every_dtype_with_gradients(norm, rope, cu, dtype):
    case = Case(norm=norm, rope=rope, N=200, D=16, E=24, cu=cu, dtype=dtype)
    inputs, options = case.inputs(), case.options()
    exact, own = with_grad({k: v.double() for k, v in inputs.items()}), with_grad(inputs)
    wanted = oracle.attention(**exact, **case.oracle_options(options))
    got = linear_attn(**own, **options)
    # mag and sub subtract two terms of like size; arbitrary rope tables leave sums that cancel
    slack = 4 if norm in ("mag", "sub") or rope else 1
    assert_close(got, wanted, dtype, norm, slack=slack)
    wanted_grads = gradients(wanted, exact)
    for name, grad in gradients(got, own).items():
        assert grad.dtype == inputs[name].dtype
        assert_close(grad, wanted_grads[name], dtype, f"d{name}", slack=4 * slack)


@pytest.mark.parametrize("rope", [False, True], ids=["plain", "rope"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("norm", ["sum", "clamp", "mag", "sub"])
def test_the_reference_computes_in_float64_whatever_the_input(norm, dtype, rope):
    """Its output, and the state that it returns, are those of float64 rounded once."""
    case = Case(norm=norm, rope=rope, weight=norm in ("sum", "clamp"), N=40, D=16, E=8, dtype=dtype)
    inputs, options = case.inputs(), case.options()
    exact, exact_options = {name: x.double() for name, x in inputs.items()}, dict(options)
    if rope:
        exact_options["rope"] = tuple(x.double() for x in options["rope"])
    wanted = linear_attn(**exact, **exact_options, backend="reference")
    assert torch.equal(linear_attn(**inputs, **options, backend="reference"), wanted.to(dtype))
    states = []
    for tensors, words in ((inputs, options), (exact, exact_options)):
        tensors = {name: x for name, x in tensors.items() if name in ("k", "v", "weight")}
        words = {name: x for name, x in words.items() if name in ("norm", "feature", "rope")}
        states.append(lin_reduce(**tensors, **words, backend="reference"))
    for part in "Ssm":
        got, wanted = (getattr(state, part) for state in states)
        assert torch.equal(got, wanted.float()), part


def test_bfloat16_rounds_rather_than_truncates():
    case = Case(N=2000, H=4, D=32, E=32, dtype=torch.bfloat16)
    inputs = case.inputs()
    inputs["v"] = inputs["v"].abs()  # one sign: truncation would show as a shift
    wanted = oracle.attention(**inputs, **case.options())
    got = linear_attn(**inputs, **case.options()).double()
    assert abs(((got - wanted).mean() / wanted.abs().mean()).item()) < SIGNED


@pytest.mark.parametrize("elements", [1, 300, 5000])
@pytest.mark.parametrize("cu", [None, CU_SEQLENS], ids=["rows", "segments"])
@pytest.mark.parametrize("norm", ["sum", "clamp", "mag", "sub"])
def test_block_size_does_not_change_the_result_or_gradients(norm, cu, elements, monkeypatch):
    case = Case(norm=norm, rope=True, weight=norm in ("sum", "clamp"), mask=True, cu=cu, H=3)
    inputs, options = case.inputs(), case.options()
    results = []
    for size in (1 << 20, elements):
        monkeypatch.setattr(blocks, "CACHE_ELEMENTS", size)
        monkeypatch.setattr(blocks, "TILE_TOKENS", (8, 128) if size > elements else (2, 4))
        own = with_grad(inputs)
        y = linear_attn(**own, **options, backend="eager")
        results.append({"y": y, **gradients(y, own)})
    for name, whole in results[0].items():
        assert_close(results[1][name], whole, torch.float64, name)


def test_long_rows_are_cut_in_blocks_of_tokens_and_heads(monkeypatch):
    """The previous test forces small blocks; here the real sizes give several of both."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # each thread adds a cache's worth to a block
    case = Case(N=300, H=30, D=64, E=128, B=1, norm="mag", rope=True, dtype=torch.float32)
    inputs, options = case.inputs(), case.options()
    cut = blocks.plan(inputs["q"], 128)
    assert cut.heads < 30
    assert cut.tokens < 300
    wanted = oracle.attention(**inputs, **case.oracle_options(options))
    assert_close(linear_attn(**inputs, **options), wanted, torch.float32, slack=4)


def test_eps_belongs_to_the_mean_or_to_the_sum():
    case = Case(N=50)
    inputs = case.inputs()
    options = {"feature": "elu1", "eps": 0.5}
    for eps_on in ("mean", "sum"):
        for backend in ("eager", "reference"):
            got = linear_attn(**inputs, **options, eps_on=eps_on, backend=backend)
            wanted = oracle.attention(**inputs, **options, eps_on=eps_on)
            assert_close(got, wanted, torch.float64)
    on_sum = linear_attn(**inputs, **options, eps_on="sum")
    assert relative_error(on_sum, wanted) < RELATIVE[torch.float64]
    assert relative_error(linear_attn(**inputs, **options), on_sum) > 0.05


@pytest.mark.parametrize("norm", ["sum", "mag"])
def test_every_form_keeps_all_digits_of_eps(norm):
    """0.1 is not a float32."""
    case = Case(norm=norm, mask=True)
    inputs, options = case.inputs(), case.options() | {"eps": 0.1}
    options["mask"][0] = False  # an empty state among them
    wanted = oracle.attention(**inputs, **case.oracle_options(options))
    for form, run in forms(case):
        assert_close(run(**inputs, **options), wanted, torch.float64, form)


@pytest.mark.parametrize("norm", ["mag", "sub"])
def test_scale_replaces_the_default(norm):
    case = Case(norm=norm)
    inputs, options = case.inputs(), case.options()
    wanted = oracle.attention(**inputs, **options, scale=0.3)
    for backend in ("eager", "reference"):
        assert_close(linear_attn(**inputs, **options, scale=0.3, backend=backend), wanted, torch.float64)
    assert relative_error(linear_attn(**inputs, **options), wanted) > 1e-3


def test_sub_with_rope_reads_a_plain_state_that_keeps_all_its_terms():
    case = Case(norm="sub", rope=True)
    inputs, options = case.inputs(), case.options()
    wanted = oracle.attention(**inputs, **case.oracle_options(options))
    assert_close(linear_attn(**inputs, **options, backend="eager"), wanted, torch.float64)


def test_sub_can_read_plain_sums():
    case = Case(norm="sub")
    inputs = case.inputs()
    q = inputs.pop("q")
    f = oracle.phi(inputs["k"], "elu1")
    plain = LinState(
        torch.einsum("bnhd,bnhe->bhde", f, inputs["v"]), f.sum(1), inputs["v"].sum(1), torch.tensor([17, 17])
    )
    wanted = oracle.attention(q, **inputs, feature="elu1", norm="sub", scale=0.5)
    for backend in ("eager", "reference"):
        got = lin_readout(q, plain, feature="elu1", norm="sub", scale=0.5, backend=backend)
        assert_close(got, wanted, torch.float64)
