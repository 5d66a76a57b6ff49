"""``linzoo bench selective-scan``: what it prints and refuses, whatever the times."""

import json
import re

import pytest

from linzoo.cli import main
from linzoo.tools import bench_selective_scan, kernel_rivals


@pytest.fixture(autouse=True)
def _steady_peaks(monkeypatch):
    monkeypatch.setattr(kernel_rivals, "peaks", lambda fastest: {"copy_gbs": 1.0})


@pytest.mark.parametrize("words", [[], ["--training"]], ids=["forward", "training"])
def test_a_row_has_the_ratio_of_the_rival(words, capsys):
    assert main(["bench", "selective-scan", "--shape", "2,9,4,3", "--rounds", "1", *words]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"2,9,4,3 {'training' if words else 'forward'}: loop .*x .* eager .* ms", out), out


def test_saved_rows_say_what_was_timed_where_and_that_both_forms_agree(tmp_path):
    out = tmp_path / "rows.jsonl"
    words = ["--shape", "2,40,4,3", "--rounds", "5", "--save", "--out", str(out)]
    assert main(["bench", "selective-scan", *words]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["pass"] for row in rows] == ["forward", "training"]
    for row in rows:
        assert row["shape"] == {"B": 2, "N": 40, "C": 4, "S": 3} and row["threads"] == 1
        assert set(row["ratio"]) == {"loop"} and row["largest_difference"] < 1e-5
        assert {"command", "commit", "device", "torch", "date", "peaks_before", "peaks_after"} <= set(row)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--shape", "1,2,3"], "--shape must be four sizes B,N,C,S > 0, got '1,2,3'"),
        (["--shape", "1,2,3,0"], "--shape must be four sizes"),
        (["--rounds", "4", "--save"], "--rounds must be >= 1, and >= 5 with --save, got 4"),
    ],
    ids=["three sizes", "no states", "few rounds"],
)
def test_bad_arguments_are_refused(words, text, capsys):
    assert main(["bench", "selective-scan", *words]) == 2
    error = capsys.readouterr().err
    assert text in error, error


def test_the_rival_has_the_same_gradients_and_unbinding_changes_nothing():
    import torch

    inputs = bench_selective_scan.inputs_of((2, 9, 4, 3))
    first = [x.mT.contiguous() if x.dim() == 3 else x for x in inputs]
    own = bench_selective_scan.step(bench_selective_scan.ours, inputs)
    for unbound in (False, True):
        rival = bench_selective_scan.step(
            lambda *x, unbound=unbound: bench_selective_scan.loop(*x, unbound=unbound), first
        )
        for a, b in zip(own, rival, strict=True):
            torch.testing.assert_close(a, b.mT if a.dim() == 3 else b)
