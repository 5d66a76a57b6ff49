"""``linzoo bench sparse-conv``: what it prints and refuses, whatever the times."""

import json
import re

import pytest
import torch

from linzoo.cli import main
from linzoo.kernels import submanifold_pairs
from linzoo.tools import bench_sparse_conv, kernel_rivals


@pytest.fixture(autouse=True)
def _without_spconv(monkeypatch):
    monkeypatch.setattr(kernel_rivals, "peaks", lambda fastest: {"copy_gbs": 1.0})
    monkeypatch.setattr(bench_sparse_conv, "has_spconv", lambda: False)


def test_rows_compare_with_autograd_and_say_where_spconv_is_missing(capsys):
    assert main(["bench", "sparse-conv", "--size", "144", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert "spconv: not installed (pip install spconv), so it is not timed" in out
    rows = [line for line in out.splitlines() if "autograd" in line]
    assert len(rows) == 4 and all("pair lists" in row and "pairs a voxel" in row for row in rows)
    assert [("surface" in row, "training" in row) for row in rows] == [
        (True, False), (True, True), (False, False), (False, True)
    ]  # fmt: skip


def test_saved_rows_say_what_was_timed_where(tmp_path):
    out = tmp_path / "rows.jsonl"
    words = ["--size", "144", "--voxels", "surface", "--only", "forward", "--rounds", "5"]
    assert main(["bench", "sparse-conv", *words, "--save", "--out", str(out)]) == 0
    (row,) = (json.loads(line) for line in out.read_text().splitlines())
    assert (row["voxels"], row["size"], row["pass"], row["threads"]) == ("surface", 144, "forward", 1)
    assert set(row["ratio"]) == {"autograd"} and row["largest_difference"] < 1e-4
    assert {"command", "commit", "device", "torch", "date", "peaks_before", "pair_lists_ms"} <= set(row)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--size", "9"], "--size must be >= 100 voxels, got 9"),
        (["--rounds", "0"], "--rounds must be >= 1, and >= 5 with --save, got 0"),
        (["--rounds", "4", "--save"], "--rounds must be >= 1, and >= 5 with --save, got 4"),
    ],
    ids=["few voxels", "no rounds", "few rounds"],
)
def test_bad_arguments_are_refused(words, text, capsys):
    assert main(["bench", "sparse-conv", *words]) == 2
    error = capsys.readouterr().err
    assert re.search(text, error), error


def test_the_voxel_sets_have_the_pairs_that_they_promise():
    for make, wanted in ((bench_sparse_conv.surface, 7.3), (bench_sparse_conv.scattered, 3.0)):
        coords, shape = make(3000)
        assert len(submanifold_pairs(coords, shape)) / len(coords) == pytest.approx(wanted, abs=0.7)
        assert abs(len(coords) / 3000 - 1) < 0.02


def test_the_rivals_compute_the_same():
    coords, shape = bench_sparse_conv.surface(144)
    pairs = submanifold_pairs(coords, shape)
    x, weight = torch.randn(len(coords), 64), torch.randn(64, 3, 3, 3, 64)
    a, b = (make(pairs)(x, weight) for make in (bench_sparse_conv.eager, bench_sparse_conv.by_autograd))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def test_spconv_computes_the_same_forward_and_backward_where_it_is_installed(monkeypatch):
    pytest.importorskip("spconv.pytorch", exc_type=ImportError)
    coords, shape = bench_sparse_conv.surface(144)
    x, weight = torch.randn(len(coords), 64), torch.randn(64, 3, 3, 3, 64)
    ours = bench_sparse_conv.eager(submanifold_pairs(coords, shape))
    theirs = bench_sparse_conv.spconv(coords, shape, weight)
    monkeypatch.setattr(bench_sparse_conv, "has_spconv", lambda: True)
    with bench_sparse_conv.spconv_backward_on_a_cpu():
        for step in (bench_sparse_conv.forward, bench_sparse_conv.training):
            torch.testing.assert_close(step(theirs, x, weight), step(ours, x, weight), rtol=1e-4, atol=1e-3)
