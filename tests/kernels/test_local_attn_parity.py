"""CLEAR: `local_attn` inside diffusers' own FluxAttention, against figures of the published processor."""

import math

import pytest
import torch

from linzoo.kernels import local_attn

from ..parity_fill import assert_matches, figures, fill, random

CASES = figures("clear_attention")["cases"]
TOLERANCE = 1e-9
FLUX_TOKENS = 4096 + 512  # at 1024 px: where the proportional scale is the usual one


def pooling_weight(case: dict) -> torch.Tensor | None:
    f = case["down_factor"]
    if f == 1:
        return None
    shape = (1, 1, 1, f, 1, f, 1)
    uneven = "seed=11" in case["spatial_weight"]
    weights = torch.full(shape, 1 / f**2, dtype=torch.float64)
    return (weights * (1 + 0.5 * random(shape, 11) if uneven else 1)).requires_grad_()


def pooled(x: torch.Tensor, case: dict, weights: torch.Tensor) -> torch.Tensor:
    """Image tokens (B, N, H, D) summed over f x f blocks with one weight each."""
    (height, width), f = case["grid"], case["down_factor"]
    blocks = x[:, case["text_tokens"] :].unflatten(1, (height // f, f, width // f, f))
    return torch.einsum("bhiwjnd,ij->bhwnd", blocks, weights.view(f, f)).flatten(1, 2)


def attend(case: dict, weights: torch.Tensor | None, backend: str):
    """What takes the place of diffusers' attention: (B, N, H, D) after norms and rotation."""

    def call(query, key, value, **_):
        extra = None if weights is None else tuple(pooled(x, case, weights) for x in (key, value))
        scale = None
        if case["proportional_attention"]:
            tokens = query.shape[1] * (1 if weights is None else 10)
            scale = math.sqrt(math.log(tokens, FLUX_TOKENS) / query.shape[-1])
        options = {"grid": tuple(case["grid"]), "radius": case["radius"], "n_global": case["text_tokens"]}
        return local_attn(query, key, value, extra_kv=extra, scale=scale, backend=backend, **options)[0]

    return call


def rotary(case: dict):
    if case["rope"] is None:
        return None
    from diffusers.models.transformers.transformer_flux import FluxPosEmbed

    (height, width), text, rope = case["grid"], case["text_tokens"], case["rope"]
    ids = torch.zeros(text + height * width, 3)
    ids[text:, 1] = torch.arange(height).repeat_interleave(width)
    ids[text:, 2] = torch.arange(width).repeat(height)
    return FluxPosEmbed(rope["theta"] * rope["ntk_factor"], rope["axes_dims"])(ids)


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize("number", range(len(CASES)))
def test_clear_equals_the_published_figures_with_every_gradient(number, backend, monkeypatch):
    flux = pytest.importorskip("diffusers.models.transformers.transformer_flux", reason="needs diffusers")
    case = CASES[number]
    module = flux.FluxAttention(**case["attn_kwargs"]).double()
    shapes = {key: x.shape for key, x in module.state_dict().items()}
    module.load_state_dict(fill(shapes, rounded=False))
    weights = pooling_weight(case)
    monkeypatch.setattr(flux, "dispatch_attention_fn", attend(case, weights, backend))
    inputs = {name: random(x["shape"], x["seed"]).requires_grad_() for name, x in case["inputs"].items() if x}
    outputs = module(**inputs, image_rotary_emb=rotary(case))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    names = ("output", "output_text")[: len(outputs)]
    loss = 0.0
    for name, y in zip(names, outputs, strict=True):
        assert_matches(y, case[name], TOLERANCE, name)
        loss = loss + (y * random(y.shape, case["probe_seeds"][name])).sum()
    leaves = inputs | ({} if weights is None else {"spatial_weight": weights})
    for name, grad in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
        assert_matches(grad, case[f"grad_{name}"], TOLERANCE, f"gradient of {name}")
