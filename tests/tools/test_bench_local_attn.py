"""``linzoo bench local-attn``: what it prints and refuses, whatever the times."""

import json
import re

import pytest

from linzoo.cli import main
from linzoo.tools import bench_local_attn, kernel_rivals


@pytest.fixture(autouse=True)
def _steady_peaks(monkeypatch):
    monkeypatch.setattr(kernel_rivals, "peaks", lambda fastest: {"copy_gbs": 1.0})


@pytest.mark.parametrize("words", [[], ["--training"]], ids=["forward", "training"])
def test_a_row_has_ratios_of_every_rival(words, capsys):
    assert main(["bench", "local-attn", "--shape", "2,6,7,3,8", "--rounds", "1", "--no-flex", *words]) == 0
    out = capsys.readouterr().out
    assert "2,6,7,3,8" in out and "softmax" in out and "eager" in out


def test_saved_rows_say_what_was_timed_where(tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    words = ["--shape", "2,6,7,3,8", "--no-flex", "--rounds", "5", "--save", "--out", str(out)]
    assert main(["bench", "local-attn", *words]) == 0
    (row,) = (json.loads(line) for line in out.read_text().splitlines())
    assert row["shape"] == {"H": 2, "height": 6, "width": 7, "text": 3, "D": 8}
    assert row["radius"] == 8 and row["threads"] == 1 and set(row["ratio"]) == {"softmax"}
    assert {"command", "commit", "device", "torch", "date", "peaks_before", "peaks_after"} <= set(row)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--shape", "2,6,7,3"], "--shape must be five sizes H,HEIGHT,WIDTH,TEXT,D > 0 .* got '2,6,7,3'"),
        (["--shape", "0,6,7,3,8"], "--shape must be five sizes"),
        (["--rounds", "0"], "--rounds must be >= 1, and >= 5 with --save, got 0"),
        (["--rounds", "4", "--save"], "--rounds must be >= 1, and >= 5 with --save, got 4"),
    ],
    ids=["four sizes", "no heads", "no rounds", "few rounds"],
)
def test_bad_arguments_are_refused(words, text, capsys):
    assert main(["bench", "local-attn", *words]) == 2
    error = capsys.readouterr().err
    assert re.search(text, error), error


def test_the_rivals_compute_the_same_where_the_window_reaches_everything():
    import torch

    qkv = torch.randn(1, 3 + 4 * 5, 3, 2, 8)  # no two of 4 x 5 places are 8 apart
    a, b = bench_local_attn.ours(4, 5, 3)(qkv), bench_local_attn.softmax(qkv)
    torch.testing.assert_close(a, b)
