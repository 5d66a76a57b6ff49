"""Halo rows, convolutions, group norms and states over ranks equal those of one process."""

import pytest

pytest.importorskip("diffusers")

from linzoo.diffusion.parallel.bands import Bands, cut

from .parallel_runs import outcome


def test_a_rank_gets_the_rows_that_it_wants_bit_for_bit_also_from_ranks_beyond_its_neighbours(
    tmp_path_factory,
):
    bands = Bands((0, 1, 3, 4, 12))
    wanted = bands.widened(5, 3)
    assert [peer for peer, _ in bands.shares(wanted[0])] == [0, 1, 2]
    for rank, result in enumerate(outcome("rows_from_several_ranks", tmp_path_factory)):
        a, b = bands.of(rank)
        sent = sum(
            max(0, min(b, last) - max(a, first)) for peer, (first, last) in enumerate(wanted) if peer != rank
        )
        assert result["gathered"]
        assert result["rows"] == {
            f"torch.{dtype}": [True, sent * 2 * 3 * 5]
            for dtype in ("float64", "float32", "bfloat16", "float16")
        }


def test_convolutions_of_bands_are_the_rows_of_the_whole_convolution(tmp_path_factory):
    for errors in outcome("convolutions_of_bands", tmp_path_factory):
        assert len(errors) == 11
        assert max(errors.values()) < 1e-14, errors


def test_group_norms_have_the_whole_images_statistics_and_no_negative_variance(tmp_path_factory):
    for result in outcome("group_norms_of_bands", tmp_path_factory):
        assert result["plain"][0] < 1e-6
        ours, torchs = result["offset"]  # at a mean of 3000 deviations both lose digits
        assert ours < 2 * torchs
        assert result["constant"] < 0.05  # 0 but for the rounding of the mean, over the root of eps
        assert result["half"] == ["torch.float16", True]


def test_states_of_unequal_shards_weigh_what_they_hold_in_one_message_of_fixed_size(tmp_path_factory):
    for result in outcome("states_of_unequal_shards", tmp_path_factory):
        assert result["error"] < 1e-14
        assert result["count"] == [48, 48]
        assert result["sent"] == [2 * (3 * 8 * 9 + 1) * 8] * 2


def test_bands_are_as_even_as_their_unit_allows_and_halve_with_the_rows():
    assert cut(128, 3, 8, None, "rows", "").edges == (0, 40, 80, 128)
    assert cut(13, 4, 4, None, "rows", "").edges == (0, 4, 8, 12, 13)
    assert Bands((0, 4, 8, 12, 13)).halved() == Bands((0, 2, 4, 6, 7))
    assert Bands((0, 4, 8, 12, 13)).halved().halved() == Bands((0, 1, 2, 3, 4))


def test_importing_the_package_imports_no_diffusers():
    import subprocess
    import sys

    code = "import sys, linzoo.diffusion.parallel; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
