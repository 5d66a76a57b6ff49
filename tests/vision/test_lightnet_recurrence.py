"""Additive recurrences: every form is one sum over pairs of tokens, with its gradients."""

import pytest
import torch

from linzoo.kernels import key_softmax_attn
from linzoo.vision.lightnet.lrpe import position_tables
from linzoo.vision.lightnet.recurrence import additive_scan

from .lightnet_cases import F64, error, randn


def qkv(n=60, heads=2, dim=4, width=3, dtype=F64, scale=1.0):
    made = randn(1, n, heads, dim), scale * randn(1, n, heads, dim), randn(1, n, heads, width)
    return tuple(x.to(dtype).requires_grad_() for x in made)


def by_definition(q, g, v, k=None, prior=0.0):
    """o_t = sum_{j <= t} v_j sum_c q_tc k_jc exp(g_jc) / D_tc, all pairs at once."""
    mass = g.exp()
    weights = mass if k is None else mass * k
    total = prior + mass.cumsum(1)
    scores = torch.einsum("bthc,bshc->bhts", q / total, weights).tril()
    return torch.einsum("bhts,bshe->bthe", scores, v)


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("general", [False, True])
def test_the_scan_is_the_sum_over_pairs_with_every_gradient(general, prior):
    q, g, v = qkv()
    k = randn(*q.shape).requires_grad_() if general else None
    inputs = [x for x in (q, g, v, k) if x is not None]
    got, _ = additive_scan(q, g, v, k, unit_prior=prior)
    want = by_definition(q, g, v, k, float(prior))
    probe = randn(*got.shape)
    assert error(got, want) < 1e-13
    wanted = torch.autograd.grad((want * probe).sum(), inputs)
    for a, b in zip(torch.autograd.grad((got * probe).sum(), inputs), wanted, strict=True):
        assert error(a, b) < 1e-11


def test_the_gradient_of_the_mass_is_that_of_differences():
    """The public reference leaves a part of it out, most of its norm."""
    q, g, v = qkv(n=7)
    k = randn(*q.shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: additive_scan(*x)[0], (q, g, v, k))


def test_one_mass_a_head_is_the_same_mass_in_every_channel():
    q, _, v = qkv()
    k, g = randn(*q.shape), randn(1, 60, 2, 1)
    assert torch.equal(additive_scan(q, g, v, k)[0], additive_scan(q, g.expand(*q.shape), v, k)[0])


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("form", ["none", "cosine"])
def test_token_by_token_and_restarted_at_40_is_the_whole_scan(form, prior):
    q, g, v = qkv()
    tables = position_tables((60,), 2, 4, "cosine", q) if form == "cosine" else None

    def part(a, b, state):
        own = None if tables is None else tuple(t[a:b] for t in tables)
        prior_now = prior and state is None
        return additive_scan(q[:, a:b], g[:, a:b], v[:, a:b], rope=own, unit_prior=prior_now, initial=state)

    whole, last = additive_scan(q, g, v, rope=tables, unit_prior=prior)
    first, state = part(0, 40, None)
    rest, end = part(40, 60, state)
    assert error(torch.cat((first, rest), 1), whole) < 1e-14
    assert error(end.S, last.S) < 1e-14 and error(end.z, last.z) < 1e-14
    state, steps = None, []
    for t in range(60):
        o, state = part(t, t + 1, state)
        steps.append(o)
    assert error(torch.cat(steps, 1), whole) < 1e-13


def test_the_definition_of_the_scan_below_gives_the_same():
    q, g, v = qkv(n=30)
    assert error(additive_scan(q, g, v)[0], additive_scan(q, g, v, backend="reference")[0]) < 1e-13


def test_the_last_position_is_that_of_the_order_free_form():
    q, k, v = qkv()
    causal, image = additive_scan(q, k, v)[0], key_softmax_attn(q, k, v)
    assert error(causal[:, -1], image[:, -1]) < 1e-13
    assert error(causal[:, 0], image[:, 0]) > 0.1


def test_flat_keys_make_running_means():
    _, _, v = qkv()
    one = torch.ones(1, 60, 2, 4, dtype=F64)
    want = v.cumsum(1) / torch.arange(1, 61, dtype=F64)[None, :, None, None]
    assert error(additive_scan(one / 4, one, v)[0], want) < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_large_keys_stay_finite_forward_and_backward(dtype):
    q, k, v = qkv(n=200, dtype=dtype, scale=40.0)
    o, _ = additive_scan(q, k, v)
    assert o.isfinite().all() and o.dtype == dtype
    assert all(g.isfinite().all() for g in torch.autograd.grad(o.sum(), (q, k, v)))


def test_bfloat16_loses_no_more_than_the_rounding_of_its_inputs():
    """Rounded keys, masses or decays would be off by whole percents after 3000 tokens."""
    q, k, v = (x.detach() for x in qkv(n=3000, dtype=torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        o, _ = additive_scan(q, k, v)
    assert error(o, additive_scan(q.double(), k.double(), v.double())[0]) < 3e-3


def test_masked_tokens_have_no_mass_anywhere_in_a_row():
    """A masked prefix too, where a running log-sum-exp of -inf would be NaN."""
    q, k, v = qkv(n=30)
    mask = torch.rand(1, 30) > 0.3
    mask[:, :5], mask[:, 5] = False, True
    o, _ = additive_scan(q, k, v, mask=mask)
    keep = mask[0]
    assert error(o[:, keep], additive_scan(q[:, keep], k[:, keep], v[:, keep])[0]) < 1e-13
    assert (o[:, :5] == 0).all()
    grads = torch.autograd.grad(o.square().sum(), (q, k, v))
    assert all(g.isfinite().all() for g in grads)
    assert all((g[:, ~keep] == 0).all() and (g[:, keep] != 0).any() for g in grads[1:])
    nothing, _ = additive_scan(q, k, v, mask=torch.zeros_like(mask))
    assert (nothing == 0).all()


def test_a_prior_and_a_state_exclude_each_other():
    q, k, v = qkv(n=3)
    _, state = additive_scan(q, k, v)
    with pytest.raises(ValueError, match="unit_prior must be False with initial"):
        additive_scan(q, k, v, unit_prior=True, initial=state)
