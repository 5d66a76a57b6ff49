"""CLEAR in whole transformers: any grid and text length, from call to call, and what a call may not ask."""

import pytest
import torch

pytest.importorskip("diffusers")

from linzoo.diffusion import linearize

from .clear_cases import KINDS, call_of, flux_ids, masked_softmax, model_of, normal, out_of, seen

GRIDS = {"flux": [((5, 7), 7), ((8, 3), 4), ((1, 6), 1)], "sd3": [((5, 7), 7), ((8, 3), 4), ((1, 6), 1)]}
GRIDS["dit"] = [((5, 5), 0), ((8, 8), 0)]  # diffusers' DiT draws squares


def close(got: torch.Tensor, want: torch.Tensor, tolerance: float = 1e-7) -> bool:
    """Timestep tables, and FLUX's rotary, are float32 on both sides; all the rest is float64."""
    return ((got - want).norm() / want.norm()).item() < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_any_grid_and_text_length_equal_softmax_with_the_mask_call_after_call(kind):
    plain, model = model_of(kind), model_of(kind)
    linearize(model, "clear", radius=2.5)
    for grid, text in GRIDS[kind]:
        call = call_of(kind, grid, text, batch=2)
        with masked_softmax(seen(grid, 2.5, text, text_first=kind == "flux")):
            want = out_of(plain, call)
        assert close(out_of(model, call), want, 1e-9)
        if min(grid) > 2:
            assert not close(out_of(plain, call), want, 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_radius_that_reaches_every_pair_equals_full_attention_and_a_smaller_one_does_not(kind):
    grid = (4, 4) if kind == "dit" else (4, 5)
    corner = ((grid[0] - 1) ** 2 + (grid[1] - 1) ** 2) ** 0.5
    call = call_of(kind, grid)
    want = out_of(model_of(kind), call)
    for radius, full in ((corner * 1.0001, True), (1e6, True), (corner * 0.9999, False)):
        model = model_of(kind)
        linearize(model, "clear", radius=radius)
        assert close(out_of(model, call), want, 1e-9) == full


def test_controlnet_residuals_reach_a_swapped_flux():
    grid, model = (4, 6), model_of("flux")
    residuals = dict(
        controlnet_block_samples=[normal(1, 24, 32, seed=5)],
        controlnet_single_block_samples=[normal(1, 24, 32, seed=6)],
    )
    call = call_of("flux", grid)
    want, without = out_of(model, call | residuals), out_of(model, call)
    linearize(model, "clear", radius=100)
    assert close(out_of(model, call | residuals), want, 1e-9) and not close(without, want, 1e-3)


def test_the_grid_comes_from_ids_of_any_dtype_and_place_or_as_a_word_and_the_word_dict_is_left_alone():
    model, grid = model_of("flux"), (6, 5)
    linearize(model, "clear", radius=2)
    call = call_of("flux", grid)
    want, ids = out_of(model, call), flux_ids(*grid)
    for same in (ids[None].repeat(2, 1, 1), ids.bfloat16(), ids.long()):
        assert close(out_of(model, call | {"img_ids": same}), want)
    words = {"grid": grid, "scale": 1.0}
    assert torch.equal(out_of(model, call | {"joint_attention_kwargs": words}), want)
    assert words == {"grid": grid, "scale": 1.0}
    moved = out_of(model, call | {"img_ids": ids + torch.tensor([0.0, 3.0, 1.0])})
    assert moved.isfinite().all() and not close(moved, want)  # a part of a larger picture


@pytest.mark.parametrize("grid", [(300, 2), (2, 300), (1, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_long_sides_are_read_from_ids_that_bfloat16_has_rounded(grid, dtype):
    from linzoo.diffusion.clear.grids import grid_of_ids

    assert grid_of_ids(flux_ids(*grid).to(dtype), grid[0] * grid[1]) == grid


def reference_tokens() -> torch.Tensor:
    """Kontext's: a second picture, marked on the first axis."""
    second = flux_ids(2, 4)
    second[:, 0] = 1
    return torch.cat((flux_ids(4, 4), second))


WRONG_IDS = {
    "reference tokens": reference_tokens(),
    "two pictures": torch.cat((flux_ids(3, 4), flux_ids(3, 4))),
    "column by column": flux_ids(4, 6).view(4, 6, 3).transpose(0, 1).reshape(24, 3),
    "one token out of place": flux_ids(4, 6)[[*range(22), 23, 22]],
}


@pytest.mark.parametrize("name", WRONG_IDS)
def test_ids_that_are_not_one_grid_are_refused(name):
    model = model_of("flux")
    linearize(model, "clear", radius=2)
    with pytest.raises(ValueError, match=r"img_ids must be one grid of positions.*Kontext.*unlinearize"):
        out_of(model, call_of("flux", (4, 6), img_ids=WRONG_IDS[name]))


CALLS = {
    "grid of another size": (
        {"joint_attention_kwargs": {"grid": (5, 5)}},
        "grid must have as many tokens.*24",
    ),
    "grid that is no pair": (
        {"joint_attention_kwargs": {"grid": 24}},
        r"grid must be a pair \(rows, columns\)",
    ),
    "too few ids": ({"img_ids": flux_ids(4, 5)}, r"img_ids must be \(N, 3\) with N = 24"),
    "ip adapter": ({"joint_attention_kwargs": {"ip_adapter_image_embeds": []}}, "IP-Adapter.*unlinearize"),
    "mask": (
        {"joint_attention_kwargs": {"attention_mask": torch.ones(1, 31)}},
        "attention_mask must be None",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_cannot_be_right_is_refused(name):
    changes, message = CALLS[name]
    model = model_of("flux")
    linearize(model, "clear", radius=2)
    with pytest.raises((ValueError, TypeError), match=message):
        out_of(model, call_of("flux", (4, 6), **changes))


def test_a_rectangle_that_dit_would_put_together_as_a_square_is_refused():
    model = model_of("dit")
    linearize(model, "clear", radius=2)
    with pytest.raises(ValueError, match=r"must be a square latent.*got \(8, 18\)"):
        out_of(model, call_of("dit", (4, 9)))


def test_an_attention_called_alone_needs_its_grid():
    handle = linearize(model_of("dit"), "clear", radius=2)
    attention, x = handle.modules["transformer_blocks.0.attn1"], normal(1, 12, 32)
    assert attention(x, grid=(3, 4)).shape == x.shape
    with pytest.raises(ValueError, match=r"grid must be \(rows, columns\).*got None"):
        attention(x)


@pytest.mark.parametrize("kind", ["flux", "sd3"])
def test_no_keyword_of_the_swap_is_complained_about(kind, monkeypatch):
    from diffusers.models import attention_processor
    from diffusers.models.transformers import transformer_flux

    model, said = model_of(kind), []
    for module in (attention_processor, transformer_flux):
        monkeypatch.setattr(module.logger, "warning", said.append)
    linearize(model, "clear", radius=2, proportional_attention=True)
    out_of(model, call_of(kind, (4, 6), joint_attention_kwargs={"proportional_attention": False}))
    assert said == []


def test_half_of_the_heads_on_each_of_two_devices_add_up_to_the_whole():
    handle = linearize(model_of("flux"), "clear", radius=2)
    attention = handle.modules["transformer_blocks.0.attn"]
    image, text = normal(1, 24, 32), normal(1, 5, 32, seed=1)
    words = dict(hidden_states=image, encoder_hidden_states=text, grid=(4, 6))
    whole, parts = attention(**words), []
    full = {k: x.clone() for k, x in attention.state_dict().items()}
    for half in (slice(0, 16), slice(16, 32)):  # columns of one head of two
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"):
            linear = getattr(attention, name)
            linear.weight.data, linear.bias.data = full[f"{name}.weight"][half], full[f"{name}.bias"][half]
        for name in ("to_out.0", "to_add_out"):
            linear = attention.get_submodule(name)
            linear.weight.data, linear.bias.data = full[f"{name}.weight"][:, half], full[f"{name}.bias"] / 2
        parts.append(attention(**words))
    for got, want in zip((a + b for a, b in zip(*parts, strict=True)), whole, strict=True):
        assert close(got, want, 1e-12)
