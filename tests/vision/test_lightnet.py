"""LightNet: what its operators, encodings and models must satisfy, beyond the recorded figures."""

import importlib

import pytest
import timm
import torch
import torch.nn.functional as F

from linzoo.kernels import key_softmax_attn, key_softmax_readout, key_softmax_reduce
from linzoo.kernels.key_softmax import rotated, spread
from linzoo.vision import fold
from linzoo.vision.layers import make_mixer, rope
from linzoo.vision.lightnet import LightNetAttention, MdTpe
from linzoo.vision.lightnet import tpe as tpe_module
from linzoo.vision.lightnet.lrpe import position_tables
from linzoo.vision.lightnet.recurrence import additive_scan
from linzoo.vision.lightnet.tpe import Tpe, log_lambda, scan, toeplitz

lightnet = importlib.import_module("linzoo.vision.lightnet")
F64 = torch.float64
SMALL = {"embed_dim": 32, "num_heads": 2, "depth": 2, "patch_size": 8, "num_classes": 5}


def small(**changes):
    torch.manual_seed(0)
    return timm.create_model("lightnet_tiny", **{**SMALL, **changes})


def randn(*shape, dtype=F64):
    return torch.randn(*shape, dtype=F64).to(dtype)


def lively(module):
    """Weights with which every part shows in the output."""
    for name, value in module.named_parameters():
        if value.ndim > 1:
            torch.nn.init.normal_(value, std=value[0].numel() ** -0.5)
        elif name.endswith("bias") or "log_decay" in name:
            torch.nn.init.normal_(value, std=0.3)
    return module.eval()


def error(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def qkv(n=60, heads=2, dim=4, width=3, dtype=F64, scale=1.0):
    made = randn(1, n, heads, dim), scale * randn(1, n, heads, dim), randn(1, n, heads, width)
    return tuple(x.to(dtype).requires_grad_() for x in made)


# --- additive recurrences


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


# --- MD-LRPE


@pytest.mark.parametrize("form", ["rotate", "cosine"])
@pytest.mark.parametrize("grid", [(9,), (4, 5), (3, 2, 4)], ids=["1-D", "2-D", "3-D"])
def test_scores_depend_on_differences_of_positions_only(form, grid):
    heads, dim = 2, 12
    q, k = randn(heads, dim), randn(heads, dim)
    tables = position_tables(grid, heads, dim, form, q)
    n = tables[0].shape[0]
    encode = rotated if form == "rotate" else spread
    qs, ks = (encode(x.expand(1, n, heads, dim), *tables)[0] for x in (q, k))
    scores = torch.einsum("thd,shd->hts", qs, ks).view(heads, *grid, *grid)
    seen = {}
    index = torch.cartesian_prod(*(torch.arange(length) for length in grid)).view(-1, len(grid)).tolist()
    for a in index:
        for b in index:
            gap = tuple(x - y for x, y in zip(a, b, strict=True))
            value = scores[(slice(None), *a, *b)]
            torch.testing.assert_close(value, seen.setdefault(gap, value), rtol=0, atol=1e-11)
    zero = tuple(0 for _ in grid)
    torch.testing.assert_close(seen[zero], (q * k).sum(-1), rtol=0, atol=1e-12)
    assert (
        len({round(v[0].item(), 9) for v in seen.values()}) > len(seen) / 10
    )  # the cosine is even in every axis


def test_rows_come_before_columns_and_frequencies_run_on_across_heads():
    heads, dim, width = 2, 8, 5
    cos, _ = position_tables((4, width), heads, dim, "rotate", randn(1))
    theta = 10000.0 ** (-torch.arange(8, dtype=F64) / 8)  # 2 j / (H d), j = 0 .. H d / 2 - 1
    for head in range(heads):
        first, second = theta[4 * head : 4 * head + 2]  # half of the head's four: the other half is not used
        down = [first, first, second, second, 0, 0, 0, 0]
        torch.testing.assert_close(cos[width, head], torch.tensor(down, dtype=F64).cos())
        torch.testing.assert_close(cos[1, head], torch.tensor(down[4:] + down[:4], dtype=F64).cos())


def test_channels_that_the_axes_do_not_divide_stand_still():
    x = randn(1, 6, 1, 11)
    y = rotated(x, *position_tables((2, 3), 1, 11, "rotate", x))  # 5 pairs: 2 an axis
    assert torch.equal(y[..., 8:], x[..., 8:])
    assert not torch.isclose(y[0, 4, 0, :8], x[0, 4, 0, :8]).any()
    with pytest.raises(ValueError, match="head_dim must be at least 2 for each of 3 axes, got 4"):
        position_tables((2, 2, 2), 1, 4, "rotate", x)


@pytest.mark.parametrize("form", ["rotate", "cosine"])
def test_extra_tokens_have_angle_zero_and_the_grid_starts_behind_them(form):
    x = randn(1)
    cos, sin = position_tables((3, 4), 2, 8, form, x)
    with_two = position_tables((3, 4), 2, 8, form, x, prefix=2)
    assert (with_two[0][:2] == 1).all() and (with_two[1][:2] == 0).all()
    assert torch.equal(with_two[0][2:], cos) and torch.equal(with_two[1][2:], sin)


def test_tables_follow_grid_and_precision_whatever_was_asked_before():
    rope._CACHE.clear()
    x = randn(1, dtype=torch.float16)
    first = position_tables((3, 4), 2, 8, "rotate", x)
    assert position_tables((3, 4), 2, 8, "rotate", x.bfloat16()) is first
    assert first[0].dtype == torch.float32
    assert position_tables((3, 4), 2, 8, "rotate", randn(1))[0].dtype == F64
    assert position_tables((4, 3), 2, 8, "rotate", x)[0].shape == first[0].shape
    assert not torch.equal(position_tables((4, 3), 2, 8, "rotate", x)[0], first[0])
    assert not torch.equal(position_tables((3, 4), 2, 8, "cosine", x)[0], first[0])
    assert position_tables((3, 4), 2, 8, "rotate", x.to("meta"))[0].is_meta


# --- MD-TPE


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("decay", ["sigmoid", "expexp"])
def test_matrix_and_scan_agree_with_the_recurrence(decay, bidirectional):
    x, raw = randn(2, 300, 3, 4).requires_grad_(), randn(3).requires_grad_()
    lam = raw.sigmoid() if decay == "sigmoid" else (-raw.exp()).exp()

    def run(steps):
        s, out = torch.zeros_like(x[:, 0]), []
        for t in steps:
            s = lam[:, None] * s + x[:, t]
            out.append(s)
        return out

    want = torch.stack(run(range(300)), 1)
    if bidirectional:
        want = want + torch.stack(run(range(299, -1, -1))[::-1], 1) - x
    probe = randn(*x.shape)
    wanted = torch.autograd.grad((want * probe).sum(), (x, raw))
    for form in (toeplitz, scan):
        got = form(x, log_lambda(raw, decay), bidirectional)
        assert error(got, want) < 1e-13
        for a, b in zip(torch.autograd.grad((got * probe).sum(), (x, raw)), wanted, strict=True):
            assert error(a, b) < 1e-12


def test_long_axes_are_scanned_and_give_what_the_matrix_gives(monkeypatch):
    module = lively(Tpe(8, 2).double())
    x = randn(2, 260, 8)
    calls = []
    monkeypatch.setattr(tpe_module, "scan", lambda *a: calls.append(1) or scan(*a))
    scanned = module(x)
    module(x[:, :256])
    assert calls == [1]
    monkeypatch.setattr(tpe_module, "LONG_AXIS", 1000)
    assert error(scanned, module(x)) < 1e-13 and calls == [1]


@pytest.mark.parametrize("raw", [-90.0, 90.0])
@pytest.mark.parametrize("decay", ["sigmoid", "expexp"])
def test_decays_at_their_ends_stay_finite(decay, raw):
    module = Tpe(4, 1, decay)
    torch.nn.init.constant_(module.log_decay, raw)
    x = randn(1, 256, 4, dtype=torch.float32).requires_grad_()
    y = module(x)
    grads = torch.autograd.grad(y.sum(), (x, *module.parameters()))
    assert y.isfinite().all() and all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_causal_means_that_a_token_sees_what_is_above_and_left_of_it(bidirectional):
    module = lively(MdTpe(8, 2, 2, bidirectional=bidirectional).double())
    x = randn(1, 5, 6, 8)
    changed = x.clone()
    changed[0, 2, 3] += 1
    differs = (module(changed) - module(x)).abs().sum(-1)[0] > 1e-9
    want = torch.zeros(5, 6, dtype=torch.bool)
    want[2, :] = want[:, 3] = True
    if not bidirectional:
        want[2, :3] = want[:2, 3] = False
    assert torch.equal(differs, want)


@pytest.mark.parametrize("axes", [1, 3])
def test_md_tpe_is_the_sum_of_an_encoding_along_each_axis(axes):
    module = lively(MdTpe(8, 2, axes).double())
    x = randn(2, *(3, 4, 5)[:axes], 8)
    want = 0
    for i, part in enumerate(module.axes):
        lines = x.movedim(i + 1, -2)
        want = want + part(lines.reshape(-1, x.shape[i + 1], 8)).view(lines.shape).movedim(-2, i + 1)
    assert error(module(x), want) < 1e-14
    with pytest.raises(ValueError, match=rf"x must be \(B, {axes} axes, C\)"):
        module(x[0])


def test_md_tpe_starts_as_found_and_not_constant():
    module = MdTpe(8, 2)
    for part in module.axes:
        assert (part.q == 1).all() and (part.k == 1).all() and (part.log_decay == 0).all()
    model = small()
    x = torch.randn(2, 3, 32, 32)
    logits = model(x)
    assert (logits[0] - logits[1]).norm() > 1e-3 * logits.norm()
    logits.square().sum().backward()
    norms = {n: p.grad.norm() for n, p in model.named_parameters()}
    assert max(norms.values()) < 1e3 * norms["head.weight"], "the first gradients are of one order"


# --- the mixer

FORMS = pytest.mark.parametrize("form", ["none", "rotate", "cosine"])


def attention(**options):
    torch.manual_seed(0)
    return lively(LightNetAttention(24, 2, **options, dtype=F64))


def test_without_positions_permuting_tokens_permutes_outputs():
    x, order = randn(2, 30, 24), torch.randperm(30)
    plain, turned = attention(form="none"), attention()
    assert error(plain(x[:, order]), plain(x)[:, order]) < 1e-13
    assert error(turned(x[:, order]), turned(x)[:, order]) > 0.01


@FORMS
@pytest.mark.parametrize("grid", [(12,), (3, 4), (2, 3, 2)], ids=["1-D", "2-D", "3-D"])
def test_grids_of_any_axes_run_with_and_without_masks(form, grid):
    """A batch padded at the end of every axis gives the unpadded outputs: positions do not shift."""
    mixer = attention(form=form)
    x = randn(1, *grid, 24)
    padded = torch.full((1, *(n + 2 for n in grid), 24), 9.0, dtype=F64)
    inside = (slice(None), *(slice(n) for n in grid))
    padded[inside] = x
    mask = torch.zeros(padded.shape[:-1], dtype=torch.bool)
    mask[inside] = True
    want = mixer(x)
    assert want.shape == x.shape
    assert error(mixer(padded, mask=mask)[inside], want) < 1e-13
    assert error(mixer(padded)[inside], want) > 0.01


def test_prefix_tokens_attend_without_a_position():
    mixer = attention()
    x, two = randn(1, 3, 4, 24), randn(1, 2, 24)
    row = torch.cat((two, x.flatten(1, 2)), 1)
    y = mixer(row, grid=(3, 4), prefix=2)
    swapped = mixer(row[:, [1, 0, *range(2, 14)]], grid=(3, 4), prefix=2)
    assert error(swapped[:, [1, 0]], y[:, :2]) < 1e-13 and error(swapped[:, 2:], y[:, 2:]) < 1e-13
    mask = torch.arange(14) >= 2
    assert error(mixer(row, grid=(3, 4), prefix=2, mask=mask[None])[:, 2:].view(x.shape), mixer(x)) < 1e-13


@pytest.mark.parametrize("form", ["rotate", "cosine"])
def test_tiles_of_an_image_add_to_the_whole(form):
    """Each tile holds the tables of its own rows of the one grid."""
    mixer = attention(form=form)
    x = randn(2, 6, 5, 24)
    q, k, v = mixer.split_heads(x.flatten(1, 2))
    tables = position_tables((6, 5), 2, 12, form, q)
    cuts = [(0, 10), (10, 15), (15, 30)]
    states = (key_softmax_reduce(k[:, a:b], v[:, a:b], rope=tuple(t[a:b] for t in tables)) for a, b in cuts)
    o = key_softmax_readout(q, sum(states), rope=tables, form=form)
    assert error(mixer.merge(o.flatten(2), x.flatten(1, 2)).view(x.shape), mixer(x)) < 1e-13


@pytest.mark.parametrize("form", ["none", "cosine"])
@pytest.mark.parametrize("prior", [False, True])
def test_the_causal_mixer_continues_from_a_state(form, prior):
    mixer = attention(causal=True, form=form, unit_prior=prior, norm="rms", gate="silu", gate_first=False)
    x = randn(2, 60, 24)
    whole = mixer(x)
    first, state = mixer.scan(x[:, :40])
    rest, _ = mixer.scan(x[:, 40:], state, start=40)
    assert error(torch.cat((first, rest), 1), whole) < 1e-13
    later = x.clone()
    later[:, 40:] = 0
    assert error(mixer(later)[:, :40], whole[:, :40]) < 1e-14
    with pytest.raises(ValueError, match="must be causal"):
        attention().scan(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "sigmoyd"}, "gate must be one of .*did you mean 'sigmoid'"),
        ({"form": "turn"}, "form must be one of"),
        ({"norm": "batch"}, "norm must be one of"),
        ({"keys": "relu"}, "keys must be one of"),
        ({"causal": True}, "causal needs keys='softmax' and form 'cosine' or 'none'"),
        ({"causal": True, "keys": "silu", "form": "none"}, "causal needs keys='softmax'"),
        ({"unit_prior": True}, "unit_prior must be False unless causal"),
        ({"heads": 5}, "heads must divide dim=24, got 5"),
    ],
    ids=["gate", "form", "norm", "keys", "causal rotation", "causal silu", "prior", "heads"],
)
def test_wrong_options_of_the_mixer_are_named(options, message):
    with pytest.raises(ValueError, match=f"LightNetAttention: {message}"):
        LightNetAttention(**{"dim": 24, "heads": 2, **options})


@pytest.mark.parametrize(
    "changes",
    [{"gate": "silu"}, {"gate": "identity"}, {"gate_first": False}, {"norm": "rms"}, {"keys": "silu"},
     {"form": "cosine"}, {"scale": 0.01}],
    ids=["silu gate", "no gate", "norm first", "rms", "silu keys", "cosine", "scale"],
)  # fmt: skip
def test_every_option_of_the_mixer_has_an_effect(changes):
    x = randn(1, 4, 5, 24)
    y, other = attention()(x), attention(**changes)(x)
    assert other.shape == y.shape and error(other, y) > 1e-6


def test_the_mixer_serves_the_pyramid_and_its_folded_form():
    model = timm.create_model(
        "ravlt_tiny", dims=(16, 32, 48, 64), depths=(1, 1, 1, 1), heads=(1, 2, 3, 4), mixers="lightnet",
        num_classes=3, layer_scale=(0.5,) * 4,
    )  # fmt: skip
    assert {type(b.attn) for s in model.stages for b in s.blocks} == {LightNetAttention}
    x = torch.randn(2, 3, 64, 96)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    assert error(fold(model)(x), model(x)) < 1e-5
    assert make_mixer("lightnet", 16, 2)(torch.randn(1, 3, 5, 16), None).shape == (1, 3, 5, 16)


# --- models


@pytest.mark.parametrize(
    ("name", "millions", "without_tpe"),
    [("lightnet_tiny", 6.03, 5.96), ("lightnet_small", 22.8, 22.5), ("lightnet_base", 88.7, 87.5)],
    ids=["tiny", "small", "base"],
)
def test_parameters_are_those_of_the_card(name, millions, without_tpe):
    def count(**options):
        return sum(p.numel() for p in timm.create_model(name, device="meta", **options).parameters()) / 1e6

    digits = 2 if millions < 10 else 1
    assert round(count(), digits) == millions and round(count(tpe="none"), digits) == without_tpe
    hidden = timm.create_model(name, device="meta").blocks[0].mlp.fc2.in_features
    assert hidden == {"lightnet_tiny": 512, "lightnet_small": 1024, "lightnet_base": 2048}[name]


def test_nothing_depends_on_the_size_of_the_image():
    model = small().eval()
    assert [n for n, _ in model.named_buffers()] == []
    for size in [(64, 64), (17, 130), (8, 8), (1, 1)]:
        _, maps = model.forward_intermediates(torch.randn(1, 3, *size))
        grid = tuple(-(-length // 8) for length in size)
        assert [m.shape for m in maps] == [(1, 32, *grid)] * 2


def test_a_transposed_image_is_another_image():
    model = lively(small(patch_size=1).double())
    x = randn(1, 3, 5, 7)
    assert error(model(x.mT), model(x)) > 1e-4


@pytest.mark.parametrize(
    "changes",
    [{"lrpe": "cosine"}, {"lrpe": "none"}, {"tpe": "bidirectional"}, {"tpe_decay": "expexp"},
     {"gate": "silu"}, {"gate_first": False}, {"norm": "rms"}],
    ids=["cosine", "no lrpe", "two-sided", "expexp", "gate", "norm first", "rms"],
)  # fmt: skip
def test_every_option_of_the_model_has_an_effect(changes):
    x = torch.randn(1, 3, 48, 64)
    weights = small().state_dict()
    other = small(**changes).eval()
    other.load_state_dict(weights, strict="norm" not in changes)
    assert error(other(x), small().eval()(x)) > 1e-6


def test_pooling_comes_before_the_norm():
    model = lively(small())
    tokens = torch.randn(2, 12, 32)
    want = model.head(F.rms_norm(tokens.mean(1), (32,), model.fc_norm.weight, 1e-6))
    torch.testing.assert_close(model.forward_head(tokens), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_models_keep_the_positions_of_far_tokens(dtype):
    """Angles rounded to half would be off by radians at row 300."""
    module = lively(LightNetAttention(16, 1).double())
    x = randn(1, 400, 2, 16)
    want = module(x)
    half = LightNetAttention(16, 1).to(dtype)
    half.load_state_dict(module.state_dict())
    assert error(half(x.to(dtype)), want) < (0.01 if dtype == torch.float16 else 0.06)


def test_wrong_words_are_named():
    with pytest.raises(ValueError, match=r"LightNet: tpe must be one of .*did you mean 'causal'"):
        small(tpe="casual")
    with pytest.raises(ValueError, match="decay must be one of"):
        small(tpe_decay="exp")
    with pytest.raises(ValueError, match="LightNet: num_heads must divide embed_dim=32, got 3"):
        small(num_heads=3)


# --- names of other code


def test_a_checkpoint_with_the_authors_layer_names_loads():
    model, other = lively(small()), small().eval()
    theirs = lightnet.to_official(model.state_dict())
    assert "blocks.0.attn.qkv_proj.weight" in theirs and "pos_embed.axes.0.proj.weight" in theirs
    back = lightnet.from_official(theirs)
    assert back.keys() == model.state_dict().keys()
    other.load_state_dict(theirs)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(other(x), model(x))
    filtered = lightnet.checkpoint_filter_fn({"model": theirs}, small())
    assert filtered.keys() == back.keys()
    assert not lightnet.OFFICIAL.has(model.state_dict())


def test_a_layer_with_some_of_three_projections_is_refused():
    with pytest.raises(ValueError, match=r"q_proj\.weight must come with v_proj\.weight, got none"):
        lightnet.from_official({"q_proj.weight": torch.ones(2, 2), "k_proj.weight": torch.ones(2, 2)})
