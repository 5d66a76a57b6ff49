"""A LinFusion UNet over ranks equals the UNet of one process; what cannot be spread is refused everywhere."""

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("peft")

from .parallel_runs import outcome


def test_a_step_on_two_unequal_ranks_equals_the_step_of_one_process(tmp_path_factory):
    for errors in outcome("unets_on_two_ranks", tmp_path_factory):
        assert len(errors) == 4
        for name, error in errors.items():
            assert error < (1e-9 if "float64" in name else 1e-5), (name, error)


def test_a_step_on_four_ranks_equals_the_step_of_one_process_with_odd_heights_too(tmp_path_factory):
    for errors in outcome("unets_on_four_ranks", tmp_path_factory):
        assert max(errors["even"], errors["odd"]) < 1e-9
        assert errors["sdxl float32"] < 1e-5


def test_counted_bytes_of_every_layer_are_those_of_the_formulas(tmp_path_factory):
    for rank, result in enumerate(outcome("bytes_of_a_unet_call", tmp_path_factory)):
        assert result["kinds"] == {"check": 1, "conv": 20 - rank, "norm": 21, "state": 4, "gather": 1}
        assert not {name: pair for name, pair in result["seen"].items() if pair[0] != pair[1]}
        assert sum(pair[0] for pair in result["seen"].values()) + 15 * 8 == result["total"]
        assert f"rank {rank} of 2, rows {(0, 6)[rank]} to {(5, 15)[rank]}" in result["text"]
        assert result["error"] < 1e-5


def test_lora_on_convolutions_and_residuals_of_a_controlnet_and_a_t2i_adapter_are_spread_too(
    tmp_path_factory,
):
    for result in outcome("what_surrounds_a_unet", tmp_path_factory):
        assert result["lora has a say"] > 1e-2
        assert max(result[name] for name in ("lora", "controlnet", "adapter")) < 1e-9


def test_close_gives_the_model_back_as_it_was_bit_for_bit(tmp_path_factory):
    for result in outcome("what_surrounds_a_unet", tmp_path_factory):
        assert result["closed"] == [False, True, True, True]


def test_a_pipeline_gives_every_rank_the_image_of_one_process(tmp_path_factory):
    results = outcome("a_pipeline_of_a_unet", tmp_path_factory)
    assert results[0]["sum"] == results[1]["sum"]
    for result in results:
        assert max(result["errors"]) < 1e-5
        assert result["calls"] == 4  # two runs of two steps
        assert result["still linear"]


def test_a_memory_plan_holds_on_every_rank(tmp_path_factory):
    for result in outcome("a_pipeline_of_a_unet", tmp_path_factory):
        error, calls = result["planned"]
        assert error < 1e-5
        assert calls == 4  # two steps, each for one row of the batch at a time


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("softmax", 'got 4 softmax ones, the first down_blocks.1.* Call linearize(pipe, "linfusion") first'),
        ("flux softmax", "got a FluxTransformer2DModel that is not linearized"),
        ("lit", "got a DiTTransformer2DModel with method='lit'"),
        ("group", "group must contain this process"),
        (
            "no group",
            "TypeError: parallelize: group must be a torch.distributed.ProcessGroup or None, got str",
        ),
        ("rows few", "rows must have one entry per rank (2 ranks), got 1 entries"),
        ("rows zero", "rows must be >= 1 each, got (0, 16)"),
        ("rows float", "TypeError: parallelize: rows must hold integers, got 8.0"),
        ("rows word", "TypeError: parallelize: rows must be None or one integer per rank, got str"),
        ("rows number", "TypeError: parallelize: rows must be None or one integer per rank, got int"),
        ("circular", "conv_in must be * zero padding * got padding_mode='circular'"),
        ("patched", "conv_out must have the forward of its class"),
        ("one more", "late must lie in the UNet's blocks"),
        ("strange norm", "conv_norm_out must be a torch.nn.GroupNorm, got Norm"),
        ("unchanged", "False"),
    ],
)
def test_what_cannot_be_spread_is_refused_before_anything_changes(name, text, tmp_path_factory):
    texts = [result[name] for result in outcome("refusals", tmp_path_factory) if name in result]
    assert texts and all(holds(got, text) for got in texts), texts


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("twice", "the model must not be parallel already"),
        ("copy", "TypeError: a parallel model must not be copied"),
        ("unlinearize", "close() the handle of parallelize first"),
        ("gradients", "RuntimeError: * must be called under torch.no_grad()"),
        ("module", "RuntimeError: conv_in must be called by its parallel model"),
        ("shapes", "size 2 of sample must be the same on every rank, got 16, 14 on ranks 0 to 1"),
        ("values", "the values of sample (seed generators alike) must be the same on every rank"),
        ("sizes", "the size of encoder_hidden_states must be the same on every rank"),
        ("too few rows", "at most 1 ranks for 2 latent rows in bands that are multiples of 2"),
        ("masks", "ip_adapter_masks must be left out"),
        ("freeu", "FreeU must be off"),
        ("changed", "got a new mid_block.resnets.0.late"),
        ("residuals", "must have one of [16, 8] rows, got (2, 64, 5, 4)"),
        ("close", "conv_out must have the forward of its class"),
        ("rows edge", "must be a multiple of 2 latent rows (the model halves rows 1 times), got (5, 11)"),
        ("rows sum", "rows must add up to the 16 latent rows of this call, got (8, 10), which add up to 18"),
        ("weights", "a checksum of the weights must be the same on every rank"),
        ("options", "rows[0] must be the same on every rank, got 8, 6 on ranks 0 to 1"),
    ],
)
def test_a_call_that_cannot_be_spread_is_refused_on_every_rank(name, text, tmp_path_factory):
    results = outcome("refusals_of_calls", tmp_path_factory)
    assert all(holds(result["texts"][name], text) for result in results), results[0]["texts"][name]


def test_ranks_are_in_step_after_a_refusal(tmp_path_factory):
    for result in outcome("refusals_of_calls", tmp_path_factory):
        assert result["after"] < 1e-9
        assert result["closed"]


def holds(got: str, pattern: str) -> bool:
    """Whether the pieces of ``pattern``, between asterisks, come in ``got`` in that order."""
    place = 0
    for piece in pattern.split("*"):
        place = got.find(piece.strip(), place)
        if place < 0:
            return False
    return True
