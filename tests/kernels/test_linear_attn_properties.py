"""What must hold whatever the numbers: sets, segments, empties, masks, determinism, extreme values."""

import io

import pytest
import torch
import torch.nn.functional as F

from linzoo.kernels import LinState, feature_map, lin_readout, lin_reduce, linear_attn
from linzoo.kernels.linear_attn.plain import lin_readout_plain

from . import oracle
from .cases import Case, gradients, with_grad
from .tolerances import assert_close, relative_error

BACKENDS = ("eager", "reference")


def parts(state: LinState) -> dict[str, torch.Tensor]:
    return {"S": state.S, "s": state.s, "m": state.m}


def same_state(a: LinState, b: LinState, dtype=torch.float64) -> None:
    assert a.centered == b.centered
    assert torch.equal(a.n, b.n)
    for name, x in parts(a).items():
        assert_close(x, parts(b)[name], dtype, name)


@pytest.mark.parametrize("norm", ["sum", "sub"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_order_of_tokens_does_not_change_the_state(norm, backend):
    k, v = torch.randn(2, 60, 2, 8, dtype=torch.float64), torch.randn(2, 60, 2, 6, dtype=torch.float64)
    order = torch.randperm(60)
    one, other = (
        lin_reduce(k[:, i], v[:, i], feature="elu1", norm=norm, backend=backend) for i in (slice(None), order)
    )
    same_state(one, other)


@pytest.mark.parametrize("cut", [1, 13, 59])
@pytest.mark.parametrize("norm", ["sum", "clamp", "mag", "sub"])
def test_states_of_two_parts_add_up_to_the_state_of_all(norm, cut):
    k, v = torch.randn(2, 60, 2, 8, dtype=torch.float64), torch.randn(2, 60, 2, 6, dtype=torch.float64)
    mask = torch.rand(2, 60) > 0.3
    whole = lin_reduce(k, v, feature="elu1", norm=norm, mask=mask)
    left, right = (
        lin_reduce(k[:, i], v[:, i], feature="elu1", norm=norm, mask=mask[:, i])
        for i in (slice(cut), slice(cut, None))
    )
    same_state(left + right, whole)
    same_state(right + left, whole)


@pytest.mark.parametrize("norm", ["sum", "sub"])
def test_an_empty_state_is_the_zero_of_addition(norm):
    k, v = torch.randn(1, 9, 2, 8, dtype=torch.float64), torch.randn(1, 9, 2, 6, dtype=torch.float64)
    full, none = (lin_reduce(k, v, norm=norm, mask=torch.full((1, 9), on)) for on in (True, False))
    assert none.n.item() == 0
    same_state(full + none, full)
    same_state(none + full, full)
    assert not any(x.isnan().any() for x in parts(none + none).values())


@pytest.mark.parametrize("norm", ["sum", "sub"])
def test_states_go_through_sum_and_equality_and_a_file_and_to(norm):
    k, v = torch.randn(1, 9, 2, 8), torch.randn(1, 9, 2, 6)
    cut = [lin_reduce(k[:, i : i + 3], v[:, i : i + 3], norm=norm) for i in (0, 3, 6)]
    same_state(sum(cut), lin_reduce(k, v, norm=norm), torch.float32)
    assert sum(cut[:1]) is cut[0]
    assert cut[0] == cut[0]
    assert cut[0] != cut[1]
    file = io.BytesIO()
    torch.save(vars(cut[0]), file)
    file.seek(0)
    same_state(LinState(**torch.load(file, weights_only=True)), cut[0], torch.float32)
    moved = cut[0].to("meta")
    assert {x.device.type for x in (*parts(moved).values(), moved.n)} == {"meta"}
    assert (moved.S.dtype, moved.n.dtype, moved.centered) == (torch.float32, torch.int64, norm == "sub")
    with pytest.raises(TypeError):
        cut[0] + 0
    with pytest.raises(TypeError):
        1 + cut[0]


@pytest.mark.parametrize("norm", ["sum", "sub"])
def test_gradients_flow_through_the_sum_of_states(norm):
    case = Case(norm=norm)
    inputs = case.inputs()
    whole, cut = with_grad(inputs), with_grad(inputs)
    wanted = gradients(linear_attn(**whole, feature="elu1", norm=norm), whole)
    k, v = cut["k"], cut["v"]
    left, right = (
        lin_reduce(k[:, i], v[:, i], feature="elu1", norm=norm) for i in (slice(6), slice(6, None))
    )
    got = gradients(lin_readout(cut["q"], left + right, feature="elu1", norm=norm), cut)
    for name, grad in wanted.items():
        assert_close(got[name], grad, torch.float64, name)


@pytest.mark.parametrize("feature", ["identity", "elu1", "relu"])
@pytest.mark.parametrize("norm", ["sum", "mag", "sub"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_constant_values_come_back_unchanged(norm, feature, backend):
    """The weights over tokens sum to one (clamp's do not, nor do any with eps or rope)."""
    inputs = Case(norm=norm, feature=feature, N=30, D=8).inputs()
    inputs["q"], inputs["k"] = inputs["q"].abs(), inputs["k"].abs()
    inputs["v"] = torch.full_like(inputs["v"], 2.5)
    y = linear_attn(**inputs, feature=feature, norm=norm, eps=0.0, backend=backend)
    torch.testing.assert_close(y, inputs["v"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("norm", ["sum", "clamp", "mag", "sub"])
def test_two_segments_equal_two_separate_calls(norm):
    case = Case(norm=norm, rope=True, cu=(0, 11, 17), weight=norm in ("sum", "clamp"))
    inputs, options = case.inputs(), case.options()
    cu, (cos, sin) = options.pop("cu_seqlens"), options.pop("rope")
    packed = linear_attn(**inputs, **options, rope=(cos, sin), cu_seqlens=cu, backend="eager")
    for a, b in ((0, 11), (11, 17)):
        own = {name: x if name == "scale" else x[:, a:b] for name, x in inputs.items()}
        alone = linear_attn(**own, **options, rope=(cos[a:b], sin[a:b]), backend="eager")
        assert_close(packed[:, a:b], alone, torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_state_index_reads_the_named_state_in_any_order(backend):
    inputs = Case(B=5, N=6).inputs()
    state = lin_reduce(inputs["k"], inputs["v"], feature="elu1", norm="mag", backend=backend)
    q, index = torch.randn(1, 40, 2, 4, dtype=torch.float64), torch.randint(0, 5, (40,), dtype=torch.int32)
    index[index == 2] = 3  # a state that nobody reads
    rope = (torch.randn(40, 4, dtype=torch.float64), torch.randn(40, 4, dtype=torch.float64))
    options = {"feature": "elu1", "norm": "mag", "backend": backend}
    got = lin_readout(q, state, state_index=index, rope=rope, **options)
    for i in range(40):
        r = int(index[i])
        own = LinState(state.S[r : r + 1], state.s[r : r + 1], state.m[r : r + 1], state.n[r : r + 1])
        turn = tuple(t[i : i + 1] for t in rope)
        assert_close(
            got[:, i : i + 1], lin_readout(q[:, i : i + 1], own, rope=turn, **options), torch.float64
        )


def test_state_index_gradients_match_the_reference():
    inputs = with_grad(Case(B=4, N=6).inputs())
    q = torch.randn(1, 30, 2, 4, dtype=torch.float64, requires_grad=True)
    index = torch.randint(0, 4, (30,), dtype=torch.int32)
    grads = []
    for backend in BACKENDS:
        state = lin_reduce(inputs["k"], inputs["v"], feature="elu1", backend=backend)
        y = lin_readout(q, state, feature="elu1", state_index=index, backend=backend)
        grads.append(gradients(y, {"q": q, "k": inputs["k"], "v": inputs["v"]}))
    for name, grad in grads[1].items():
        assert_close(grads[0][name], grad, torch.float64, name)


@pytest.mark.parametrize("eps", [0.0, 1e-6])
@pytest.mark.parametrize("norm", ["sum", "clamp", "mag", "sub"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_reading_an_empty_state_gives_zero_and_finite_gradients(norm, backend, eps):
    case = Case(norm=norm, mask=True)
    inputs, options = with_grad(case.inputs()), case.options()
    options["mask"][0] = False
    y = linear_attn(**inputs, **options, eps=eps, backend=backend)
    assert torch.equal(y[0], torch.zeros_like(y[0]))
    assert y[1].abs().min() > 0
    for name, grad in gradients(y, inputs).items():
        assert grad.isfinite().all(), name


@pytest.mark.parametrize("norm", ["sum", "clamp", "mag", "sub", "centred sub"])
@pytest.mark.parametrize("form", [*BACKENDS, "plain"])
def test_a_state_of_no_tokens_reads_as_zero_whatever_it_holds(form, norm):
    norm, centered = norm.removeprefix("centred "), norm.startswith("centred")
    full = lin_reduce(*(torch.rand(2, 9, 2, d, dtype=torch.float64) for d in (4, 3)))
    own = with_grad({"q": torch.rand(2, 5, 2, 4, dtype=torch.float64), **parts(full)})
    if norm == "clamp":
        own["scale"] = torch.ones(2, dtype=torch.float64, requires_grad=True)
    state = LinState(own["S"], own["s"], own["m"], torch.tensor([0, 9]), centered)
    scale = own.get("scale", None if norm == "sum" else 0.5)
    cmin = 1.0 if norm == "clamp" else None
    if form == "plain":
        y = lin_readout_plain(own["q"], state, None, "identity", norm, 1e-6, "mean", scale, cmin)
    else:
        y = lin_readout(own["q"], state, norm=norm, scale=scale, cmin=cmin, backend=form)
    assert torch.equal(y[0], torch.zeros_like(y[0]))
    assert y[1].abs().min() > 0
    loss = (y * torch.randn_like(y)).sum()
    grads = torch.autograd.grad(loss, own.values(), allow_unused=True)
    for name, grad in zip(own, grads, strict=True):
        if name != "scale" and grad is not None:  # one scale for all states
            assert grad[0].abs().max() == 0, name


@pytest.mark.parametrize("cu", [None, (0, 5, 17)], ids=["rows", "segments"])
@pytest.mark.parametrize("norm", ["sum", "clamp", "mag", "sub"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_masked_tokens_do_not_count_even_when_they_hold_nan(norm, backend, cu):
    case = Case(norm=norm, mask=True, cu=cu, weight=norm in ("sum", "clamp"))
    inputs, options = case.inputs(), case.options()
    clean = linear_attn(**inputs, **options, backend=backend)
    for name in ("k", "v"):
        inputs[name][~options["mask"]] = float("nan")
    own = with_grad(inputs)
    y = linear_attn(**own, **options, backend=backend)
    assert torch.equal(y, clean)
    grads = gradients(y, own)
    assert all(grad.isfinite().all() for grad in grads.values())
    assert grads["k"][~options["mask"]].abs().max() == 0
    assert grads["v"][~options["mask"]].abs().max() == 0


@pytest.mark.parametrize("cu", [None, (0, 100, 101, 300)], ids=["rows", "segments"])
@pytest.mark.parametrize("norm", ["sum", "clamp", "mag", "sub"])
def test_the_same_input_gives_the_same_bits(norm, cu):
    case = Case(norm=norm, N=300, D=32, E=32, H=4, cu=cu, dtype=torch.float32)
    inputs, options = with_grad(case.inputs()), case.options()
    runs = []
    for _ in range(2):
        y = linear_attn(**inputs, **options)
        runs.append([y, *gradients(y, inputs).values()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_views_of_a_fused_projection_give_the_bits_of_contiguous_copies():
    qkv = torch.randn(2, 90, 3, 4, 16, requires_grad=True)
    q, k, v = qkv.unbind(2)
    views = linear_attn(q, k, v, feature="elu1")
    (grad,) = torch.autograd.grad(views.square().sum(), qkv)
    copies = [x.detach().contiguous().requires_grad_() for x in (q, k, v)]
    y = linear_attn(*copies, feature="elu1")
    assert torch.equal(views, y)
    assert torch.equal(grad, torch.stack(torch.autograd.grad(y.square().sum(), copies), 2))


@pytest.mark.parametrize("layout", ["heads first", "channels first"])
def test_any_strides_are_taken(layout):
    inputs = Case(N=30, D=8, E=8).inputs()
    wanted = linear_attn(**inputs)
    axes = (0, 2, 1, 3) if layout == "heads first" else (0, 2, 3, 1)
    back = [axes.index(i) for i in range(4)]
    strided = {name: x.permute(axes).contiguous().permute(back) for name, x in inputs.items()}
    assert not strided["q"].is_contiguous()
    assert_close(linear_attn(**strided), wanted, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_states_are_float32_or_float64_and_counts_are_int64(dtype):
    k = torch.ones(1, 5, 1, 2, dtype=dtype)
    for backend in BACKENDS:
        state = lin_reduce(k, k, backend=backend)
        wanted = torch.float64 if dtype == torch.float64 else torch.float32
        assert {x.dtype for x in parts(state).values()} == {wanted}
        assert state.n.dtype == torch.int64
        assert state.n.tolist() == [5]


def test_float16_sums_beyond_65504_do_not_overflow():
    q, k, v = (torch.full((1, 4000, 1, 8), x, dtype=torch.float16) for x in (3.0, 30.0, 1.0))
    y = linear_attn(q, k, v, feature="elu1")
    torch.testing.assert_close(y, v, rtol=2e-3, atol=0)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("norm", ["sum", "mag"])
def test_elu1_stays_finite_at_keys_of_size_80(norm, sign):
    q, k, v = (torch.randn(1, 64, 2, 16) for _ in range(3))
    q, k = 80 * q.sign() * q.abs().clamp(0.5, 1), sign * 80 * k.abs().clamp(0.5, 1)
    own = with_grad({"q": q, "k": k, "v": v})
    y = linear_attn(**own, feature="elu1", norm=norm)
    wanted = oracle.attention(q, k, v, feature="elu1", norm=norm, scale=None if norm == "sum" else 0.25)
    assert_close(y, wanted, torch.float32, slack=10)
    assert all(grad.isfinite().all() for grad in gradients(y, own).values())


def test_sub_keeps_its_digits_under_an_offset():
    """Plain sums lose two digits at an offset of 3; the centred state does not."""
    q, k, v = (torch.randn(1, 4096, 2, 32) for _ in range(3))
    k, v = k + 3, v + 3
    wanted = oracle.attention(q[:, :64], k[:, :64], v[:, :64], norm="sub", scale=0.1)
    assert_close(linear_attn(q[:, :64], k[:, :64], v[:, :64], norm="sub", scale=0.1), wanted, torch.float32)
    exact = lin_reduce(k.double(), v.double(), norm="sub").S
    plain = lin_reduce(k, v)
    subtracted = plain.S - plain.s.unsqueeze(-1) * plain.m.unsqueeze(-2) / 4096
    assert relative_error(lin_reduce(k, v, norm="sub").S, exact) < 2e-6
    assert relative_error(subtracted, exact) > 2e-5


def test_clamp_passes_no_gradient_through_z_at_or_below_its_floor():
    q = torch.full((1, 1, 1, 2), 2.0, dtype=torch.float64, requires_grad=True)
    k, v = (torch.ones(1, 3, 1, 2, dtype=torch.float64) for _ in range(2))
    tau = torch.ones(1, dtype=torch.float64)
    for cmin, slope in ((12.0, 3 / 12), (13.0, 3 / 13), (11.0, 0.0)):  # z = 12, u = z: y = z / max(z, cmin)
        state = lin_reduce(k, v)
        y = lin_readout(q, state, norm="clamp", scale=tau, cmin=cmin)
        (grad,) = torch.autograd.grad(y[..., 0].sum(), q)
        torch.testing.assert_close(grad, torch.full_like(grad, slope))


def test_sum_near_zero_is_not_clamped_silently():
    """z = 1e-9 against eps n = 4e-12: the answer is about 1 / z, not 1 / floor."""
    q, k, v = (torch.full((1, 4, 1, 1), x, dtype=torch.float64) for x in (1e-9, 0.25, 1.0))
    torch.testing.assert_close(linear_attn(q, k, v, eps=0.0), v, rtol=1e-12, atol=0)
    k[:, :2] *= -1  # z cancels exactly: by definition u / 0
    assert not linear_attn(q, k, v, eps=0.0).isfinite().any()


def test_a_second_derivative_is_refused():
    q, k, v = (torch.randn(1, 5, 1, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    (grad,) = torch.autograd.grad(linear_attn(q, k, v, feature="elu1").sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        grad.sum().backward()


def test_elu1_is_elu_plus_one_and_keeps_one_tensor_for_its_gradient():
    x = torch.randn(1000, dtype=torch.float64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = feature_map(x, "elu1")
    assert [t.shape for t in kept] == [x.shape]
    torch.testing.assert_close(y, F.elu(x) + 1, rtol=1e-14, atol=1e-15)
    torch.autograd.gradcheck(lambda x: feature_map(x, "elu1"), x[:20])
    torch.autograd.gradgradcheck(lambda x: feature_map(x, "elu1"), x[:20])
    tiny = torch.tensor([-80.0])
    assert feature_map(tiny, "elu1").item() == pytest.approx(
        torch.exp(tiny).item(), rel=1e-6
    )  # F.elu + 1 gives 0
