"""CLEAR inside diffusers' FLUX, against figures of the published processors: modules and models."""

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxAttention, FluxPosEmbed

from linzoo.diffusion import linearize
from linzoo.diffusion.clear import METHOD, ClearOptions
from linzoo.diffusion.clear.modules import FluxClear, swapped_class

from ..parity_fill import assert_matches, figures, fill, random

TOLERANCE = 1e-9
ATTENTION = figures("clear_attention")["cases"]
FLUX = figures("clear_flux")


def position_ids(grid: list[int], text: int) -> torch.Tensor:
    ids = torch.zeros(text + grid[0] * grid[1], 3)
    ids[text:, 1] = torch.arange(grid[0]).repeat_interleave(grid[1])
    ids[text:, 2] = torch.arange(grid[1]).repeat(grid[0])
    return ids


def swapped_attention(case: dict) -> FluxAttention:
    """A filled module that the swap has turned into CLEAR's."""
    module = FluxAttention(**case["attn_kwargs"]).double()
    module.load_state_dict(fill({k: x.shape for k, x in module.state_dict().items()}, rounded=False))
    module.__dict__["own_processor"] = FluxClear.PROCESSOR()
    module.__class__ = swapped_class(FluxClear, FluxAttention, 4096)
    words = {name: case[name] for name in ("radius", "down_factor", "proportional_attention")}
    METHOD.prepare("attn", module, ClearOptions(**words), "inherit")
    if "seed=11" in (case["spatial_weight"] or ""):
        with torch.no_grad():
            module.spatial_weight.mul_(1 + 0.5 * random(module.spatial_weight.shape, 11))
    return module


@pytest.mark.parametrize("number", range(len(ATTENTION)))
def test_the_attention_equals_the_published_figures_with_every_gradient(number):
    case = ATTENTION[number]
    module = swapped_attention(case)
    words, rope = {"grid": tuple(case["grid"])}, case["rope"]
    if rope:
        embed = FluxPosEmbed(rope["theta"] * rope["ntk_factor"], rope["axes_dims"])
        words["image_rotary_emb"] = embed(position_ids(case["grid"], case["text_tokens"]))
    inputs = {name: random(x["shape"], x["seed"]).requires_grad_() for name, x in case["inputs"].items() if x}
    outputs = module(**inputs, **words)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = 0.0
    for name, y in zip(("output", "output_text"), outputs, strict=False):
        assert_matches(y, case[name], TOLERANCE, name)
        loss = loss + (y * random(y.shape, case["probe_seeds"][name])).sum()
    leaves = inputs | ({"spatial_weight": module.spatial_weight} if case["down_factor"] > 1 else {})
    for name, grad in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
        assert_matches(grad, case[f"grad_{name}"], TOLERANCE, f"gradient of {name}")


def official_weights(case: dict) -> dict[str, torch.Tensor]:
    """Of the whole model, by the names that the published processors give."""
    described = next(c["describe"] for c in FLUX["cases"] if "describe" in c)["state_dict"]
    return fill(described | case.get("spatial_weight_keys", {}), rounded=False)


class RecordedTimes(torch.nn.Module):
    """diffusers' float32 table of sines as the figures' machine had it: exp's last place is the CPU's."""

    def forward(self, times: torch.Tensor) -> torch.Tensor:
        return torch.tensor([FLUX["timestep_embeddings"][str(round(t))] for t in times.tolist()])


def noise_prediction(model: FluxTransformer2DModel, case: dict) -> torch.Tensor:
    model.time_text_embed.time_proj = RecordedTimes()
    grid, text = case["grid"], case["text_tokens"]
    ids = position_ids(grid, text)
    given = {name: x for name, x in case["inputs"].items() if isinstance(x, dict)}
    tensors = {name: random(x["shape"], x["seed"]) for name, x in given.items()}
    numbers = {name: torch.tensor([case["inputs"][name]]) for name in ("timestep", "guidance")}
    with torch.no_grad():
        return model(**tensors, **numbers, img_ids=ids[text:], txt_ids=ids[:text]).sample


@pytest.mark.parametrize("number", range(len(FLUX["cases"])))
def test_the_transformer_equals_the_published_figures(number):
    case = FLUX["cases"][number]
    model = FluxTransformer2DModel(**FLUX["transformer_config"]).double().eval()
    weights = official_weights(case)
    if case["radius"]:
        names = ("radius", "down_factor", "ntk_factor", "proportional_attention")
        linearize(model, "clear", **{name: case[name] for name in names})
        weights = {k.replace(".processor.", "."): x for k, x in weights.items()}
    model.load_state_dict(weights)
    assert_matches(noise_prediction(model, case), case["noise_pred"], TOLERANCE)
