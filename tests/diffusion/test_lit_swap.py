"""LiT's options: their defaults, what each does to the weights, what is refused, what it costs."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="needs diffusers")

from linzoo.diffusion import linearize  # noqa: E402

from .pipelines import build  # noqa: E402

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
SIZES = {  # width, heads of DiT, heads of LiT: arXiv 2501.12976, and our own choice for PixArt
    "DiT-S/2": ("DiTTransformer2DModel", 384, 6, 2),
    "DiT-B/2": ("DiTTransformer2DModel", 768, 12, 3),
    "DiT-L/2": ("DiTTransformer2DModel", 1024, 16, 4),
    "DiT-XL/2": ("DiTTransformer2DModel", 1152, 16, 4),
    "PixArt": ("PixArtTransformer2DModel", 1152, 16, 4),
    "ten heads: three do not divide the width": ("DiTTransformer2DModel", 40, 10, 2),
}


@pytest.mark.parametrize("size", SIZES)
def test_without_heads_the_paper_s_number_is_taken(size):
    cls, width, heads, ours = SIZES[size]
    with torch.device("meta"):
        model = getattr(diffusers, cls)(
            num_layers=1, num_attention_heads=heads, attention_head_dim=width // heads
        )
    handle = linearize(model, "lit")
    assert asdict(handle.options) == {
        "heads": ours,
        "kernel_size": 5,
        "conv_on": "v",
        "conv_init": "zero",
        "eps": 1e-6,
        "eps_on": "sum",
        "inherit": "none",
    }
    assert handle.modules["transformer_blocks.0.attn1"].conv.weight.shape == (width, 1, 5, 5)


@pytest.mark.parametrize("kind", ["dit", "pixart_sigma", "pixart_alpha"])
def test_self_attention_is_swapped_and_nothing_else(kind):
    model = build(kind).model
    before = {name: p.clone() for name, p in model.named_parameters()}
    handle = linearize(model, "lit")
    assert list(handle.modules) == ["transformer_blocks.0.attn1", "transformer_blocks.1.attn1"]
    changed = {n for n, p in model.named_parameters() if n not in before or not torch.equal(p, before[n])}
    assert changed == set(handle.parameters())
    assert all(".attn1." in name for name in changed)


@pytest.mark.parametrize(
    ("inherit", "kept"),
    [("none", ()), ("v", ("to_v",)), ("qkv", PROJECTIONS[:3]), ("all", PROJECTIONS)],
)
def test_inherit_says_which_projections_start_as_the_model_s(inherit, kept):
    model = build("pixart_sigma").model
    before = {name: p.clone() for name, p in model.named_parameters()}
    linearize(model, "lit", inherit=inherit)
    for name, p in model.named_parameters():
        if ".attn1.to" in name:
            inherits = name.rpartition(".")[0].split("attn1.")[1] in kept
            assert torch.equal(p, before[name]) == inherits, name


def test_random_projections_are_drawn_as_the_dit_repository_does():
    model = build("dit", num_layers=1, num_attention_heads=4, attention_head_dim=64).model
    attention = linearize(model, "lit").modules["transformer_blocks.0.attn1"]
    for name in PROJECTIONS:
        fan_out = 256 if name == "to_out.0" else 3 * 256  # one layer makes q, k and v there
        bound = (6 / (256 + fan_out)) ** 0.5
        linear = attention.get_submodule(name)
        assert not linear.bias.any()
        assert 0.999 * bound < linear.weight.abs().max() <= bound
        assert abs(linear.weight.std() * 3**0.5 / bound - 1) < 0.02
    same = build("dit", num_layers=1).model, build("dit", num_layers=1).model
    for seed, model in zip((3, 3), same, strict=True):
        torch.manual_seed(seed)
        linearize(model, "lit", conv_init="random")
    states = [list(model.state_dict().values()) for model in same]
    assert all(map(torch.equal, *states))


def test_the_convolution_adds_nothing_until_it_is_trained_unless_asked_for():
    images = {}
    for init in ("zero", "random", None):
        tiny = build("dit")
        torch.manual_seed(1)
        words = {"kernel_size": None} if init is None else {"conv_init": init}
        linearize(tiny.pipe, "lit", inherit="all", **words)
        images[init] = tiny.run()
    assert torch.equal(images["zero"], images[None])
    assert (images["zero"] - images["random"]).abs().max() > 1e-3


def test_a_fresh_swap_follows_the_dtype_and_the_mode_of_the_model():
    model = build("pixart_sigma").model.to(torch.bfloat16).requires_grad_(False)
    handle = linearize(model, "lit")
    assert {(p.dtype, p.requires_grad) for p in handle.parameters().values()} == {(torch.bfloat16, False)}
    assert not any(module.training for module in model.modules())


REFUSED = [
    ({"heads": 3}, ValueError, "heads must divide the width 32, got 3"),
    ({"heads": 0}, ValueError, "heads must be >= 1, got 0"),
    ({"heads": 2.0}, TypeError, "heads must be an int, got 2.0"),
    ({"heads": True}, TypeError, "heads must be an int, got True"),
    ({"kernel_size": 4}, ValueError, "kernel_size must be odd, or None for no convolution, got 4"),
    ({"kernel_size": -3}, ValueError, "kernel_size must be odd, or None for no convolution, got -3"),
    ({"kernel_size": "5"}, TypeError, "kernel_size must be an odd int, or None for no convolution, got '5'"),
    ({"conv_on": "q"}, ValueError, "conv_on must be one of v, x, got 'q'"),
    ({"conv_init": "ones"}, ValueError, "conv_init must be one of zero, random, got 'ones'"),
    ({"eps": 0}, ValueError, "eps must be > 0, got 0"),
    ({"eps": "small"}, TypeError, "eps must be a number, got 'small'"),
    ({"eps_on": "max"}, ValueError, "eps_on must be one of sum, mean, got 'max'"),
    ({"inherit": "kv"}, ValueError, "inherit must be one of none, v, qkv, all, got 'kv'"),
    ({"kernel": 5}, ValueError, "kernel is not an option of method='lit'; did you mean 'kernel_size'?"),
    ({"init": "random"}, ValueError, "use inherit="),
    ({"weights": "official"}, ValueError, "neither code nor weights of LiT are published"),
]


@pytest.mark.parametrize(("words", "error", "message"), REFUSED, ids=str)
def test_a_bad_option_is_refused_by_name_and_changes_nothing(words, error, message):
    model = build("dit").model
    before, cls = {n: p.clone() for n, p in model.named_parameters()}, type(model)
    with pytest.raises(error) as caught:
        linearize(model, "lit", **words)
    assert message in str(caught.value)
    assert type(model) is cls
    after = dict(model.named_parameters())
    assert list(after) == list(before) and all(torch.equal(after[n], before[n]) for n in before)


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="takes DiTTransformer2DModel, PixArtTransformer2DModel, got Flux"):
        linearize(build("flux").pipe, "lit")


CARD = Path(__file__).parents[2] / "diffusion" / "lit" / "README.md"
DEPTHS = {"DiT-S/2": 12, "DiT-B/2": 12, "DiT-L/2": 24, "DiT-XL/2": 28}


@pytest.mark.parametrize("size", DEPTHS)
def test_the_card_s_gflops_are_the_report_s(size):
    cls, width, heads, _ = SIZES[size]
    row = re.search(rf"^\| {size}.*", CARD.read_text(), re.MULTILINE)[0]
    with torch.device("meta"):
        model = getattr(diffusers, cls)(
            num_layers=DEPTHS[size], num_attention_heads=heads, attention_head_dim=width // heads
        )
    handle = linearize(model, "lit")
    reports = (handle.report(side, side) for side in (256, 512, 1024, 2048))
    want = [f"{r.flops / 1e9:.1f} / {r.softmax_flops / 1e9:.1f}" for r in reports]
    assert [cell.strip() for cell in row.split("|")[2:-1]] == want


def test_costs_are_those_counted_by_hand():
    with torch.device("meta"):
        model = diffusers.DiTTransformer2DModel()  # DiT-XL/2: width 1152, latents 32 x 32, patches of 2
    report = linearize(model, "lit").report(256, 256)
    tokens, width, multiply_add = 256, 1152, 2
    projections = 4 * tokens * width**2
    by_head = 4 * 2 * tokens * 288**2  # 4 heads: state and readout, each 288 x 288 a token
    convolution = tokens * width * 5 * 5
    scores = 2 * tokens**2 * width  # of all heads together, and as much again for the values
    assert len(report.rows) == 28
    for row in report.rows:
        assert row.tokens == tokens
        assert row.parameters == 4 * width * (width + 1) + width * (5 * 5 + 1)
        assert row.flops == multiply_add * (projections + by_head + convolution)
        assert row.softmax_flops == multiply_add * (projections + scores)
        assert row.bytes_per_token == 4 * 4 * width  # q, k, v and the result in float32
