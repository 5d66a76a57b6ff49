"""CLEAR's options: each does what it says, in the model and per call, and wrong ones are refused by name."""

import math

import pytest
import torch

pytest.importorskip("diffusers")

from linzoo.diffusion import linearize
from linzoo.diffusion.clear import ClearOptions
from linzoo.diffusion.clear.attention import pooled_areas, score_scale

from .clear_cases import KINDS, call_of, model_of, normal, out_of

GRID = (6, 6)


def drawn(kind: str, call: dict | None = None, **options) -> torch.Tensor:
    """The output of a fresh model with these options."""
    model = model_of(kind)
    linearize(model, "clear", **{"radius": 2, **options})
    return out_of(model, call or call_of(kind, GRID))


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_block_weights_equal_means_over_as_many_areas(kind):
    blocks, areas = drawn(kind, down_factor=3), drawn(kind, pooled_tokens=(2, 2))
    torch.testing.assert_close(blocks, areas, rtol=1e-9, atol=1e-11)
    assert (blocks - drawn(kind)).norm() > 1e-3 * blocks.norm()


@pytest.mark.parametrize("areas", [(1, 1), (2, 3), (7, 5), (9, 8)])
def test_areas_are_means_over_parts_that_cover_the_grid(areas):
    rows, columns = 7, 5
    x = normal(2, rows * columns, 3, 4)
    image, means = x.unflatten(1, (rows, columns)), []
    for i in range(areas[0]):
        for j in range(areas[1]):
            part = image[
                :,
                i * rows // areas[0] : -(-(i + 1) * rows // areas[0]),
                j * columns // areas[1] : -(-(j + 1) * columns // areas[1]),
            ]
            means.append(part.mean((1, 2)))
    torch.testing.assert_close(pooled_areas(x, (rows, columns), areas), torch.stack(means, 1))


def test_pooled_keys_of_a_fixed_number_take_any_grid_and_blocks_need_whole_ones():
    call = call_of("flux", (5, 7))
    assert drawn("flux", call, pooled_tokens=(3, 2)).isfinite().all()
    with pytest.raises(ValueError, match=r"divisible by down_factor 2, got 5 x 7 image tokens"):
        drawn("flux", call, down_factor=2)


def test_every_block_weight_has_an_effect_and_starts_at_the_mean():
    model = model_of("flux")
    handle = linearize(model, "clear", radius=2, down_factor=2)
    call = call_of("flux", GRID)
    before = out_of(model, call)
    for module in handle.modules.values():
        assert module.spatial_weight.shape == (1, 1, 1, 2, 1, 2, 1)
        assert (module.spatial_weight == 0.25).all() and module.spatial_weight.dtype == torch.float64
        with torch.no_grad():
            module.spatial_weight[..., 1, 0].add_(0.5)
        after = out_of(model, call)
        assert (after - before).norm() > 1e-6 * before.norm()
        before = after


@pytest.mark.parametrize("pooling", [{}, {"down_factor": 4}, {"pooled_tokens": (32, 32)}])
def test_the_proportional_scale_is_the_published_formula(pooling):
    options, tokens = ClearOptions(**pooling), 128 * 128 + 512
    inside = tokens * (10 if pooling else 1)
    want = math.sqrt(math.log(inside, 4608) / 128)
    assert math.isclose(score_scale(128, tokens, 4608, options), want, rel_tol=1e-12)
    if not pooling:
        assert math.isclose(score_scale(128, 4608, 4608, options), 128**-0.5, rel_tol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_proportional_scale_starts_from_the_tokens_that_the_model_was_trained_for(kind):
    handle = linearize(model_of(kind), "clear", radius=2, proportional_attention=True)
    module = next(iter(handle.modules.values()))
    trained, text = {"flux": ((64, 64), 512), "sd3": ((16, 16), 77), "dit": ((8, 8), 0)}[kind]
    assert math.isclose(module.scale_of(16, trained, text), 0.25, rel_tol=1e-12)
    assert module.scale_of(16, (2 * trained[0], trained[1]), text) > 0.25
    assert module.scale_of(16, trained, text, False) is None


def test_a_call_overrules_the_proportional_option_both_ways():
    on, off = ({"joint_attention_kwargs": {"proportional_attention": word}} for word in (True, False))
    call = call_of("flux", GRID)
    small, usual = drawn("flux", proportional_attention=True), drawn("flux")
    assert (small - usual).norm() > 1e-3 * usual.norm()
    assert torch.equal(drawn("flux", call | on), small)
    assert torch.equal(drawn("flux", call | off, proportional_attention=True), usual)


def test_ntk_sets_the_rotary_base_and_leaves_with_the_swap():
    model = model_of("flux")
    handle = linearize(model, "clear", radius=2, ntk_factor=10)
    assert model.pos_embed.theta == 100_000
    with handle.softmax():
        assert model.pos_embed.theta == 10_000
    assert model.pos_embed.theta == 100_000
    handle.unlinearize()
    assert model.pos_embed.theta == 10_000 and set(vars(model.pos_embed)) == set(
        vars(model_of("flux").pos_embed)
    )
    assert (drawn("flux", ntk_factor=10) - drawn("flux")).norm() > 0


def test_the_second_attention_of_sd3_stays_softmax_and_its_processor_free_to_choose():
    from diffusers.models.attention_processor import Attention, JointAttnProcessor2_0

    model = model_of("sd3")
    second = model.transformer_blocks[0].attn2
    handle = linearize(model, "clear", radius=2)
    assert list(handle.modules) == ["transformer_blocks.0.attn", "transformer_blocks.1.attn"]
    second.set_processor(JointAttnProcessor2_0())
    assert isinstance(second.processor, JointAttnProcessor2_0)
    handle.unlinearize()
    assert type(second) is Attention


@pytest.mark.parametrize("kind", KINDS)
def test_inherit_keeps_the_softmax_projections_and_random_draws_new_ones(kind):
    before = model_of(kind).state_dict()
    for init in ("inherit", "random"):
        model = model_of(kind)
        handle = linearize(model, "clear", radius=2, init=init)
        own = handle.state_dict()
        assert own and all(torch.equal(before[k], x) == (init == "inherit") for k, x in own.items())
        after = model.state_dict()
        assert all(torch.equal(before[k], after[k]) for k in before if k not in own)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_draws_nearly_what_float64_draws(dtype):
    model = model_of("flux")
    linearize(model, "clear", radius=2, down_factor=2, proportional_attention=True)
    call = call_of("flux", GRID)
    want = out_of(model, call)
    model.to(dtype)
    half = {k: x.to(dtype) if x.dtype == torch.float64 else x for k, x in call.items()}
    got = out_of(model, half)
    assert got.dtype == dtype and (got.double() - want).norm() < 3e-2 * want.norm()


WRONG = {
    "radius=0": ({"radius": 0}, ValueError, "radius must be finite and > 0, got 0"),
    "radius=nan": ({"radius": math.nan}, ValueError, "radius must be finite"),
    "radius=text": ({"radius": "8"}, TypeError, "radius must be a number, got '8'"),
    "down_factor=0": ({"down_factor": 0}, ValueError, "down_factor must be >= 1, got 0"),
    "down_factor=2.5": ({"down_factor": 2.5}, TypeError, "down_factor must be an integer"),
    "pooled_tokens=32": ({"pooled_tokens": 32}, TypeError, "pooled_tokens must be None or a pair"),
    "pooled_tokens=0": ({"pooled_tokens": (0, 4)}, ValueError, "pooled_tokens must be >= 1, got 0"),
    "both": ({"pooled_tokens": (4, 4), "down_factor": 4}, ValueError, "only one of down_factor and pooled"),
    "proportional=1": ({"proportional_attention": 1}, TypeError, "must be True or False, got 1"),
    "ntk=-1": ({"ntk_factor": -1}, ValueError, "ntk_factor must be finite and > 0"),
    "misspelt": ({"radios": 8}, ValueError, "radios is not an option.*did you mean 'radius'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_option_is_refused_by_name_and_the_model_stays(name):
    options, error, message = WRONG[name]
    model = model_of("flux")
    kept = type(model)
    with pytest.raises(error, match=message):
        linearize(model, "clear", **options)
    assert type(model) is kept


@pytest.mark.parametrize("kind", ["sd3", "dit"])
def test_ntk_is_refused_where_there_is_no_rotary(kind):
    with pytest.raises(ValueError, match=r"ntk_factor must be 1 for .* no rotary embedding, got 10"):
        linearize(model_of(kind), "clear", ntk_factor=10)
