"""CLEAR on FLUX over ranks equals the transformer of one process."""

import pytest

pytest.importorskip("diffusers")

from .parallel_runs import outcome

CASES = (
    "circle",
    "circle wider than a band",
    "reaches everything",
    "pooled blocks",
    "pooled blocks, proportional",
    "pooled areas",
)


@pytest.mark.parametrize("case", ["flux_on_two_ranks", "flux_on_four_ranks"])
def test_a_step_on_unequal_ranks_equals_the_step_of_one_process(case, tmp_path_factory):
    for errors in outcome(case, tmp_path_factory):
        assert set(CASES) < set(errors)
        for name, error in errors.items():
            assert error < (1e-5 if "float32" in name else 1e-9), (name, error)


def test_controlnet_samples_and_a_grid_given_by_hand_are_spread_too(tmp_path_factory):
    for errors in outcome("what_surrounds_flux", tmp_path_factory):
        assert len(errors) == 3
        assert max(errors.values()) < 1e-9, errors


def test_bfloat16_is_no_further_from_float32_over_ranks_than_in_one_process(tmp_path_factory):
    for result in outcome("half_precision", tmp_path_factory):
        for name in ("unet", "flux"):
            together, alone, dtype = result[name]
            assert dtype == "torch.bfloat16"
            assert together < 1.5 * alone, (name, together, alone)


def test_two_groups_draw_side_by_side(tmp_path_factory):
    for rank, result in enumerate(outcome("two_groups_side_by_side", tmp_path_factory)):
        assert result["error"] < 1e-9
        assert result["rank"] == [rank % 2, 2]
        assert result["rows"] == [[0, 3], [3, 8]][rank % 2]


def test_counted_bytes_of_every_layer_are_those_of_the_formulas(tmp_path_factory):
    for result in outcome("bytes_of_a_flux_call", tmp_path_factory):
        assert len(result["seen"]) == 3 * 2 + 1
        assert all(got == wanted for _, got, wanted in result["seen"]), result["seen"]
        assert result["pooled"] == [result["pooled wanted"]] * 3
        assert result["areas"] == [result["areas wanted"]] * 3
        assert result["error"] < 1e-5


def test_a_pipeline_gives_every_rank_the_image_of_one_process(tmp_path_factory):
    results = outcome("a_pipeline_of_flux", tmp_path_factory)
    assert results[0]["sum"] == results[1]["sum"]
    for result in results:
        assert max(result["errors"]) < 1e-5
        assert result["calls"] == 4  # two runs of two steps


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("grid", "the grid must be divisible by down_factor 2, got 9 x 6 image tokens"),
        ("columns", "the grid must be divisible by down_factor 2, got 8 x 5 image tokens"),
        ("ranks", "at most 1 ranks for 2 rows of image tokens in bands that are multiples of 2"),
        ("text", "size 1 of encoder_hidden_states must be the same on every rank, got 7, 8 on ranks 0 to 1"),
        ("ids", "img_ids must be one grid of positions"),
        ("samples", "controlnet_block_samples must have 48 image tokens, got shape (2, 40, 32)"),
        ("gradients", "must be called under torch.no_grad()"),
        ("cache", "caches must be off"),
        ("edge", "every band but the last must be a multiple of 2 rows of image tokens"),
    ],
)
def test_a_call_that_cannot_be_spread_is_refused_on_every_rank_and_ranks_stay_in_step(
    name, text, tmp_path_factory
):
    for result in outcome("refusals_of_flux_calls", tmp_path_factory):
        assert text in result["texts"][name], result["texts"][name]
        assert result["after"] < 1e-9
        assert result["closed"]
