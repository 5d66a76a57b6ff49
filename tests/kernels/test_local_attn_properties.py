"""What local attention must satisfy whatever the implementation."""

import math

import pytest
import torch
import torch.nn.functional as F

from linzoo.kernels import local_attn, merge_attn
from linzoo.kernels.local_attn import tiles
from linzoo.kernels.local_attn.geometry import Geometry

from ..parity_fill import figures
from .local_attn_cases import Case, gradients, run, with_grad
from .tolerances import assert_close

BACKENDS = ("eager", "reference")


def tokens(n: int, heads: int = 2, width: int = 8) -> list[torch.Tensor]:
    return [torch.randn(1, n, heads, width, dtype=torch.float64) for _ in "qkv"]


def softmax(q, k, v):
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("words", [{"radius": 12.7}, {"window": (17, 19)}, {"radius": 1e9}], ids=str)
def test_a_window_that_reaches_every_pair_is_full_softmax(words, backend):
    q, k, v = tokens(3 + 9 * 10)  # (9 - 1)^2 + (10 - 1)^2 = 145 < 12.7^2
    y, lse = local_attn(q, k, v, grid=(9, 10), n_global=3, backend=backend, **words)
    assert_close(y, softmax(q, k, v), torch.float64)
    scores = torch.einsum("bihd,bjhd->bihj", q, k) / math.sqrt(8)
    assert_close(lse, scores.logsumexp(-1), torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "words", [{"radius": 1}, {"radius": 0.5}, {"window": 1}, {"window": (1, 1)}], ids=str
)
def test_a_window_of_one_token_returns_the_values(words, backend):
    q, k, v = tokens(9 * 10)
    y, lse = local_attn(q, k, v, grid=(9, 10), backend=backend, **words)
    assert_close(y, v, torch.float64)
    assert_close(lse, (q * k).sum(-1) / math.sqrt(8), torch.float64)


@pytest.mark.parametrize(
    ("radius", "keys"), [(1, 1), (2, 9), (3, 25), (5, 69), (8, 193), (16, 793), (32, 3205)]
)
def test_a_disc_inside_the_grid_has_as_many_keys_as_published(radius, keys):
    """Equal scores: lse is the logarithm of the number of keys."""
    side = 2 * radius + 1
    q = torch.zeros(1, side, 1, 1, dtype=torch.float64)
    k = torch.zeros(1, side * side, 1, 1, dtype=torch.float64)
    _, lse = local_attn(q, k, k, grid=(side, side), radius=radius, q_rows=(radius, radius + 1))
    assert round(lse[0, radius, 0].exp().item()) == keys


CLEAR = figures("clear_attention")["cases"]


@pytest.mark.parametrize("number", range(len(CLEAR)))
def test_pairs_are_as_many_as_in_the_published_masks(number):
    """CLEAR's own mask on CPU, with and without pooled keys; equal scores count pairs."""
    case = CLEAR[number]
    (height, width), text = case["grid"], case["text_tokens"]
    n, pooled = height * width, case["mask_shape"][1] - case["mask_shape"][0]
    zeros = [torch.zeros(1, m, 1, 1) for m in (n + text, pooled)]
    extra = (zeros[1], zeros[1]) if pooled else None
    words = {"grid": (height, width), "radius": case["radius"], "n_global": text, "extra_kv": extra}
    _, lse = local_attn(zeros[0], zeros[0], zeros[0], **words)
    assert round(lse.double().exp().sum().item()) == case["mask_true"]
    assert (pooled > 0) == (case["down_factor"] > 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_queries_equal_the_same_rows_of_a_whole_run(backend):
    whole = Case(extra=3)
    x = whole.inputs()
    width, g = whole.grid[1], whole.n_global
    y, lse = run(whole, backend, **x)
    part = Case(extra=3, q_rows=(3, 9))
    own = torch.cat((x["q"][:, :g], x["q"][:, g + 3 * width : g + 9 * width]), 1)
    got, got_lse = run(part, backend, **(x | {"q": own}))
    for a, b in ((got, y), (got_lse, lse)):
        assert_close(a, torch.cat((b[:, :g], b[:, g + 3 * width : g + 9 * width]), 1), torch.float64)


def test_bands_with_a_halo_and_merged_text_equal_the_whole_with_gradients():
    """Two ranks: each has its rows and those of its neighbour in reach; the text's parts merge by lse."""
    case = Case(grid=(12, 7), window="circle3.7", n_global=4)
    x, width, g = case.inputs(), 7, 4
    whole, cut = with_grad(x), with_grad(x)
    wanted = run(case, "eager", **whole)
    text = {name: t[:, :g] for name, t in cut.items()}
    image = {name: t[:, g:].unflatten(1, case.grid) for name, t in cut.items()}
    options = {"radius": 3.7, "n_global": g}
    bands, texts = [], []
    for first, last in ((0, 5), (5, 12)):
        low, high = max(first - 3, 0), min(last + 3, 12)
        halo = [torch.cat((text[n], image[n][:, low:high].flatten(1, 2)), 1) for n in "kv"]
        own = image["q"][:, first:last].flatten(1, 2)
        rows = (first - low, last - low)
        bands.append(local_attn(own, *halo, grid=(high - low, width), q_rows=rows, **options))
        keys = [image[n][:, first:last].flatten(1, 2) for n in "kv"]
        if first == 0:  # the text's own keys count once
            keys = [torch.cat((text[n], t), 1) for n, t in zip("kv", keys, strict=True)]
        texts.append(local_attn(text["q"], *keys, grid=(last - first, width), q_rows=(0, 0), **options))
    merged = merge_attn(texts)
    got = [torch.cat((t, *(band[i] for band in bands)), 1) for i, t in enumerate(merged)]
    for a, b in zip(got, wanted, strict=True):
        assert_close(a, b, torch.float64)
    wanted_grads = gradients(*wanted, whole)
    for name, grad in gradients(*got, cut).items():
        assert_close(grad, wanted_grads[name], torch.float64, f"d{name}", slack=10)


def test_a_part_without_keys_adds_nothing_when_merged():
    y, lse = torch.randn(1, 5, 2, 3), torch.randn(1, 5, 2)
    none = (torch.full_like(y, float("nan")), torch.full_like(lse, float("-inf")))
    for parts in ([(y, lse), none], [none, (y, lse)]):
        got = merge_attn(parts)
        assert torch.equal(got[0], y) and torch.equal(got[1], lse)
    empty = merge_attn([none, none])
    assert not empty[0].any() and (empty[1] == float("-inf")).all()


def test_merging_keeps_dtypes_and_large_lse():
    y, lse = torch.randn(1, 5, 2, 3).bfloat16(), torch.full((1, 5, 2), 3e4)
    got = merge_attn([(y, lse), (-y, lse)])
    assert got[0].dtype == torch.bfloat16 and got[1].dtype == torch.float32
    assert got[0].abs().max() == 0
    assert torch.allclose(got[1], lse + math.log(2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_heads_do_not_mix(backend):
    case = Case(H=5, extra=3)
    x = case.inputs()
    order = [3, 0, 4, 1, 2]
    y, lse = run(case, backend, **x)
    got, got_lse = run(case, backend, **{name: t[:, :, order] for name, t in x.items()})
    assert_close(got, y[:, :, order], torch.float64)
    assert_close(got_lse, lse[:, :, order], torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_transposed_grid_gives_transposed_results(backend):
    q, k, v = tokens(9 * 14)
    turned = [x.unflatten(1, (9, 14)).transpose(1, 2).flatten(1, 2) for x in (q, k, v)]
    y, _ = local_attn(q, k, v, grid=(9, 14), window=(3, 7), backend=backend)
    got, _ = local_attn(*turned, grid=(14, 9), window=(7, 3), backend=backend)
    assert_close(got.unflatten(1, (14, 9)).transpose(1, 2).flatten(1, 2), y, torch.float64)


def test_windows_are_clipped_at_the_edges_and_do_not_wrap():
    """A key changed at the end of a row changes its own window alone, not the start of the next row."""
    q, k, v = tokens(9 * 14, heads=1)
    changed = k.clone()
    changed[:, 4 * 14 + 13] += 1
    (a, _), (b, _) = (local_attn(q, x, v, grid=(9, 14), radius=3) for x in (k, changed))
    moved = (a != b).flatten(2).any(-1).view(9, 14)
    y, x = torch.meshgrid(torch.arange(9) - 4, torch.arange(14) - 13, indexing="ij")
    assert torch.equal(moved, y**2 + x**2 < 9)


def test_global_tokens_last_are_global_tokens_first_in_another_order():
    q, k, v = tokens(5 + 9 * 10)
    y, lse = local_attn(q, k, v, grid=(9, 10), radius=3, n_global=5)
    turned = [torch.cat((x[:, 5:], x[:, :5]), 1) for x in (q, k, v)]
    got, got_lse = local_attn(*turned, grid=(9, 10), radius=3, n_global=5, global_first=False)
    assert_close(torch.cat((got[:, -5:], got[:, :-5]), 1), y, torch.float64)
    assert_close(torch.cat((got_lse[:, -5:], got_lse[:, :-5]), 1), lse, torch.float64)


def test_extra_keys_are_seen_by_image_queries_alone():
    q, k, v = tokens(5 + 9 * 10)
    extra = [torch.randn(1, 6, 2, 8, dtype=torch.float64) for _ in "kv"]
    (a, _), (b, _) = (
        local_attn(q, k, v, grid=(9, 10), radius=3, n_global=5, extra_kv=e) for e in (None, tuple(extra))
    )
    changed = (a != b).flatten(2).any(-1)[0]
    assert not changed[:5].any() and changed[5:].all()


def test_views_of_a_fused_projection_and_of_channels_first_maps_give_the_same():
    x = torch.randn(2, 5 + 9 * 10, 3, 2, 8)
    views = x.unbind(2)
    wanted = local_attn(*(t.contiguous() for t in views), grid=(9, 10), radius=4, n_global=5)
    heads_first = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in views]
    last_strided = [t.transpose(1, 3).contiguous().transpose(1, 3) for t in views]
    for given in (views, heads_first, last_strided):
        got = local_attn(*given, grid=(9, 10), radius=4, n_global=5)
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
        assert all(t.is_contiguous() for t in got)


def test_the_same_input_gives_the_same_bits():
    case = Case(dtype=torch.float32, grid=(20, 20), extra=3)
    x = case.inputs()
    runs = []
    for _ in range(2):
        own = with_grad(x)
        y, lse = run(case, "eager", **own)
        runs.append([y, lse, *gradients(y, lse, own).values()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("size", [3, 8])
@pytest.mark.parametrize("rows", [(0, 21), (4, 17)], ids=str)
def test_tiles_cover_every_query_once_and_their_boxes_every_key_it_sees(rows, size):
    g = Geometry(21, 10, *rows, 0, 0, 1, 4, 4, 16)
    seen_by = torch.zeros(21, 10, dtype=torch.int64)
    covered = torch.zeros(rows[1] - rows[0], 10, dtype=torch.int64)
    like = torch.empty(0, dtype=torch.float64)
    for kind in tiles.classes(g, size):
        hidden = kind.hidden(g, like)
        pairs = kind.queries * kind.keys if hidden is None else int((hidden == 0).sum())
        number = kind.y.count * kind.x.count
        kind.query_view(covered, rows[0]).add_(1)
        for row in kind.key_view(seen_by).unbind(0):
            for box in row.unbind(0):
                box += 1
        assert pairs > 0 and number > 0
    assert (covered == 1).all()
    assert (seen_by[max(rows[0] - 4, 0) : rows[1] + 4] > 0).all()
