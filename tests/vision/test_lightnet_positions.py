"""MD-LRPE and MD-TPE: what relative, causal and per axis mean."""

import pytest
import torch

from linzoo.kernels.key_softmax import rotated, spread
from linzoo.vision.layers import rope
from linzoo.vision.lightnet import MdTpe
from linzoo.vision.lightnet import tpe as tpe_module
from linzoo.vision.lightnet.lrpe import position_tables
from linzoo.vision.lightnet.tpe import Tpe, log_lambda, scan, toeplitz

from .lightnet_cases import F64, error, lively, randn, small

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
