"""LightNet's mixer and models: what they must satisfy, beyond the recorded figures."""

import importlib

import pytest
import timm
import torch
import torch.nn.functional as F

from linzoo.kernels import key_softmax_readout, key_softmax_reduce
from linzoo.vision import fold
from linzoo.vision.layers import make_mixer
from linzoo.vision.lightnet import LightNetAttention
from linzoo.vision.lightnet.lrpe import position_tables

from .lightnet_cases import F64, error, lively, randn, small

lightnet = importlib.import_module("linzoo.vision.lightnet")

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
