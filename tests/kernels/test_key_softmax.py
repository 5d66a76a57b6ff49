"""Linear attention with softmax keys: agreement with the definition, the state as a monoid, refusals."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from linzoo.kernels import BackendError, key_softmax_attn, key_softmax_readout, key_softmax_reduce
from linzoo.kernels.key_softmax.reference import key_softmax_attn_reference

F64 = torch.float64
FORMS = ["none", "rotate", "cosine"]


def tensors(n=11, dim=6, width=5, heads=2, dtype=F64, scale=1.0):
    q, k = (torch.randn(2, n, heads, dim, dtype=F64) * scale for _ in range(2))
    v = torch.randn(2, n, heads, width, dtype=F64)
    return tuple(x.to(dtype).requires_grad_() for x in (q, k, v))


def tables(n, dim, heads=2, dtype=F64):
    """Random angles, equal within a pair as a rotation needs."""
    angle = torch.randn(n, heads, (dim + 1) // 2, dtype=F64).repeat_interleave(2, -1)[..., :dim] * 3
    return angle.cos().to(dtype), angle.sin().to(dtype)


def words(form, n, dim, dtype=F64):
    return {} if form == "none" else {"rope": tables(n, dim, dtype=dtype), "form": form}


def error(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def gradients(y, inputs):
    probe = torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=F64).to(y.dtype)
    return torch.autograd.grad((y * probe).sum(), inputs)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dim", [6, 7])
@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["small keys", "one key is all of the sum"])
@pytest.mark.parametrize("form", FORMS)
def test_output_and_gradients_are_those_of_the_definition(form, scale, dim, masked):
    if form == "rotate" and dim == 7:
        rope = tables(11, dim)
        rope = (rope[0].clone(), rope[1].clone())
        rope[0][..., -1], rope[1][..., -1] = 1, 0  # an odd last channel stands still
        named = {"rope": rope, "form": form}
    else:
        named = words(form, 11, dim)
    q, k, v = inputs = tensors(dim=dim)
    mask = torch.rand(2, 11) > 0.4 if masked else None
    want = key_softmax_attn_reference(q, k * scale, v, named.get("rope"), form, mask)
    wanted = gradients(want, inputs)
    state = key_softmax_reduce(k * scale, v, rope=named.get("rope"), mask=mask)
    at_once = key_softmax_attn(q, k * scale, v, mask=mask, **named)
    for got in (at_once, key_softmax_readout(q, state, **named)):
        assert error(got, want) < 1e-13
        for a, b in zip(gradients(got, inputs), wanted, strict=True):
            assert error(a, b) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_low_precision_stays_near_the_definition_in_float64_of_the_same_inputs(dtype):
    q, k, v = tensors(n=65, dtype=dtype)
    got = key_softmax_attn(q, k, v, rope=tables(65, 6, dtype=torch.float32))
    assert got.dtype == dtype
    torch.manual_seed(0)
    rounded = tuple(x.detach().double() for x in tensors(n=65, dtype=dtype))
    want = key_softmax_attn_reference(*rounded, tables(65, 6, dtype=torch.float32), "rotate", None)
    assert error(got, want) < {torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float16: 1e-3}[dtype]


def test_flat_keys_over_many_tokens_are_the_mean_of_the_values_in_float16():
    """1 / N is below float16's normal numbers from 16384 tokens on."""
    n = 40000
    q, k = (torch.ones(1, n, 1, 2, dtype=torch.float16) for _ in range(2))
    v = torch.randn(1, n, 1, 3, dtype=F64).to(torch.float16) + 1
    want = 2 * v.double().mean(1, keepdim=True).expand_as(v)
    assert error(key_softmax_attn(q, k, v), want) < 1e-3


def test_autocast_leaves_the_softmax_in_float32():
    q, k, v = tensors(n=40, dtype=torch.float32)
    want = key_softmax_attn(q, k * 30, v)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(key_softmax_attn(q, k * 30, v), want)


@pytest.mark.parametrize("scale", [40.0, 1e4], ids=str)
def test_large_keys_give_finite_outputs_and_gradients(scale):
    q, k, v = tensors(n=33, dtype=torch.float32)
    y = key_softmax_attn(q, k * scale, v)
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in gradients(y, (q, k, v)))


@pytest.mark.parametrize("form", FORMS)
def test_adding_one_number_to_a_channel_of_all_keys_changes_nothing(form):
    q, k, v = tensors()
    named = words(form, 11, 6)
    shift = torch.randn(2, 1, 2, 6, dtype=F64) * 50
    assert error(key_softmax_attn(q, k + shift, v, **named), key_softmax_attn(q, k, v, **named)) < 1e-12


def test_permuting_tokens_permutes_outputs():
    q, k, v = tensors()
    order = torch.randperm(11)
    moved = key_softmax_attn(q[:, order], k[:, order], v[:, order])
    assert error(moved, key_softmax_attn(q, k, v)[:, order]) < 1e-13


@pytest.mark.parametrize("form", FORMS)
def test_a_padded_batch_equals_its_rows_alone(form):
    """Padding is never read: not even NaN in masked keys and values gets through."""
    q, k, v = (x.detach().clone() for x in tensors())
    named = words(form, 11, 6)
    mask = torch.arange(11) < torch.tensor([[11], [7]])
    k[1, 7:], v[1, 7:] = torch.nan, torch.nan
    k.requires_grad_(), v.requires_grad_()
    y = key_softmax_attn(q, k, v, mask=mask, **named)
    short = {"rope": tuple(t[:7] for t in named["rope"]), "form": form} if named else {}
    assert error(y[1:, :7], key_softmax_attn(q[1:, :7], k[1:, :7], v[1:, :7], **short)) < 1e-13
    for grad in torch.autograd.grad(y[:, :7].square().sum(), (k, v)):
        assert grad.isfinite().all() and (grad[1, 7:] == 0).all()


def test_rows_without_keys_read_zero_and_give_no_gradient():
    q, k, v = tensors()
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[0] = False
    y = key_softmax_attn(q, k, v, mask=mask)
    assert (y[0] == 0).all() and (y[1] != 0).all()
    assert all((g[0] == 0).all() and g.isfinite().all() for g in gradients(y, (q, k, v)))


# --- the state


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)], ids=str)
def test_states_of_tiles_add_to_the_state_of_all_tokens_with_gradients(form, order):
    q, k, v = tensors(n=20)
    named = words(form, 20, 6)
    rope = named.get("rope")
    cuts = [(0, 3), (3, 4), (4, 20)]

    def tile(a, b):
        own = None if rope is None else tuple(t[a:b] for t in rope)
        return key_softmax_reduce(k[:, a:b] * 30, v[:, a:b], rope=own)

    state = sum(tile(*cuts[i]) for i in order)
    got = key_softmax_readout(q, state, **named)
    want = key_softmax_attn(q, k * 30, v, **named)
    assert error(got, want) < 1e-13
    for a, b in zip(gradients(got, (q, k, v)), gradients(want, (q, k, v)), strict=True):
        assert error(a, b) < 1e-12


def test_log_sum_exp_of_a_state_is_torchs_with_its_gradient():
    _, k, v = tensors(n=20)
    state = key_softmax_reduce(k[:, :9], v[:, :9]) + key_softmax_reduce(k[:, 9:], v[:, 9:])
    want = k.logsumexp(1)
    assert error(state.log_sum_exp(), want) < 1e-14
    assert error(gradients(state.log_sum_exp(), k)[0], gradients(want, k)[0]) < 1e-13


def test_an_empty_state_adds_nothing():
    q, k, v = tensors()
    none = torch.zeros(2, 11, dtype=torch.bool)
    want = key_softmax_attn(q, k, v)
    for masks in ((none, None), (None, none)):
        first, second = (key_softmax_reduce(k, v, mask=mask) for mask in masks)
        got = key_softmax_readout(q, first + second)
        assert error(got, want) < 1e-13
        wanted = torch.autograd.grad(want.square().sum(), (q, k, v), retain_graph=True)
        for a, b in zip(torch.autograd.grad(got.square().sum(), (q, k, v)), wanted, strict=True):
            assert error(a, b) < 1e-12
    nothing = key_softmax_reduce(k, v, mask=none)
    assert (nothing.log_sum_exp() == -torch.inf).all()
    assert (key_softmax_readout(q, nothing + nothing) == 0).all()


@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.all_cases), 3])
def test_processes_with_parts_of_the_tokens_equal_one_process_with_all(world, tmp_path):
    child = Path(__file__).with_name("key_softmax_child.py")
    children = [
        subprocess.Popen(
            [sys.executable, str(child), str(rank), str(world), str(tmp_path / "meet")],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in children]
    finally:
        for process in children:
            process.kill()
    assert [process.returncode for process in children] == [0] * world, "\n".join(errors)


# --- compilers


def test_compiled_in_one_graph_it_is_the_eager_form():
    q, k, v = tensors(dtype=torch.float32)
    rope = tables(11, 6, dtype=torch.float32)
    compiled = torch.compile(key_softmax_attn, fullgraph=True, backend="aot_eager")
    got, want = (f(q, k, v, rope=rope) for f in (compiled, key_softmax_attn))
    assert error(got, want) < 1e-6
    for a, b in zip(gradients(got, (q, k, v)), gradients(want, (q, k, v)), strict=True):
        assert error(a, b) < 1e-5


def test_exported_with_dynamic_tokens_it_runs_at_other_lengths():
    class Attention(torch.nn.Module):
        def forward(self, q, k, v):
            return key_softmax_attn(q, k, v)

    n = torch.export.Dim("n", min=2, max=4096)
    shapes = {name: {1: n} for name in ("q", "k", "v")}
    example = tuple(x.detach() for x in tensors())
    program = torch.export.export(Attention(), example, dynamic_shapes=shapes).module()
    other = tuple(x.detach() for x in tensors(n=37))
    assert error(program(*other), key_softmax_attn(*other)) < 1e-13


# --- refusals


def bad(**changes):
    q, k, v = tensors()
    return {"q": q, "k": k, "v": v, **changes}


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"q": torch.ones(2, 11, 12)}, ValueError, "q must have 4 dimensions"),
        ({"k": torch.ones(2, 11, 2, 5, dtype=F64)}, ValueError, "k must have q's shape"),
        ({"v": torch.ones(2, 10, 2, 5, dtype=F64)}, ValueError, "v must have k's"),
        ({"v": torch.ones(2, 11, 2, 5)}, ValueError, "v must be torch.float64"),
        ({"mask": torch.ones(2, 11)}, ValueError, "mask must be torch.bool"),
        ({"mask": torch.ones(2, 10, dtype=torch.bool)}, ValueError, "mask must be"),
        ({"form": "rotation"}, ValueError, "form must be one of .*did you mean 'rotate'"),
        ({"rope": torch.ones(11, 2, 6)}, TypeError, "rope must be None or a pair"),
        ({"rope": (torch.ones(11, 2, 6),) * 2}, ValueError, "rope cos must be torch.float64"),
        ({"rope": (torch.ones(10, 2, 6, dtype=F64),) * 2}, ValueError, "rope cos must be"),
        ({"backend": "eagre"}, ValueError, "did you mean 'eager'"),
    ],
    ids=[
        "q rank",
        "k width",
        "v length",
        "v dtype",
        "mask dtype",
        "mask length",
        "form",
        "rope kind",
        "rope dtype",
        "rope length",
        "backend",
    ],
)
def test_wrong_arguments_are_named(changes, kind, message):
    arguments = bad(**changes)
    with pytest.raises(kind, match=f"key_softmax_attn: .*{message}"):
        key_softmax_attn(arguments.pop("q"), arguments.pop("k"), arguments.pop("v"), **arguments)


def test_a_backend_that_cannot_run_says_why(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match="triton"):
        key_softmax_attn(*tensors(), backend="triton")


def test_states_that_do_not_fit_are_refused():
    q, k, v = tensors()
    state, turned = key_softmax_reduce(k, v), key_softmax_reduce(k, v, rope=tables(11, 6))
    with pytest.raises(ValueError, match="S must have the left side's"):
        state + turned
    with pytest.raises(ValueError, match="rope must be given exactly when"):
        key_softmax_readout(q, turned)
    with pytest.raises(ValueError, match="rope must be given exactly when"):
        key_softmax_readout(q, state, rope=tables(11, 6))
    with pytest.raises(ValueError, match=r"state\.s must be q's \(B, H, D\)"):
        key_softmax_readout(q[..., :4], state)
    with pytest.raises(TypeError, match="state must be a KeySoftmaxState"):
        key_softmax_readout(q, 0)
    with pytest.raises(ValueError, match="backend must be"):
        key_softmax_reduce(k, v, backend="reference")
    with pytest.raises(TypeError, match="unsupported operand"):
        state + 1
