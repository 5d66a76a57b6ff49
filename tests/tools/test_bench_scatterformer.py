"""``linzoo bench scatterformer``: what it measures, prints and refuses, whatever the times."""

import json
import re

import pytest
import torch

from linzoo.cli import main
from linzoo.tools import bench_scatterformer, kernel_rivals

TINY = ["--shape", "12,3.5,9", "--rounds", "1"]


@pytest.fixture(autouse=True)
def _steady_peaks(monkeypatch):
    monkeypatch.setattr(kernel_rivals, "peaks", lambda fastest: {"copy_gbs": 1.0})


def test_lengths_have_the_mean_and_the_maximum_that_were_asked_for():
    for windows, mean, longest in bench_scatterformer.SHAPES:
        lengths = bench_scatterformer.lengths_of(windows, mean, longest)
        assert len(lengths) == windows and lengths.max() == longest and lengths.min() == 1
        assert lengths.double().mean().item() == pytest.approx(mean, rel=0.05)


def test_all_rivals_compute_the_same_attention_and_gradient():
    lengths = bench_scatterformer.lengths_of(12, 3.5, 9)
    qkv = torch.randn(1, int(lengths.sum()), 3, 2, 8, dtype=torch.float64)
    for wrap in (lambda call: call, bench_scatterformer.with_backward):
        want = wrap(bench_scatterformer.loop(lengths))(qkv)
        for rival in (bench_scatterformer.packed, bench_scatterformer.padded):
            torch.testing.assert_close(wrap(rival(lengths))(qkv), want, rtol=1e-9, atol=1e-12)


def test_a_row_for_each_pass_has_ratios_of_every_rival(capsys):
    assert main(["bench", "scatterformer", *TINY]) == 0
    out = capsys.readouterr().out
    for kind in bench_scatterformer.PASSES:
        assert re.search(rf"12 windows, mean .* {kind}: padded .*x .*, loop .*x .* eager", out), out


def test_saved_rows_say_what_was_timed_where(tmp_path):
    out = tmp_path / "rows.jsonl"
    words = ["--shape", "12,3.5,9", "--only", "forward", "--save", "--out", str(out)]
    assert main(["bench", "scatterformer", *words]) == 0
    (row,) = (json.loads(line) for line in out.read_text().splitlines())
    assert row["windows"] == 12 and row["longest"] == 9 and row["rounds"] == 5
    assert set(row["ratio"]) == {"padded", "loop"} and row["largest_difference"] < 1e-4
    assert {"command", "commit", "device", "torch", "threads", "date", "peaks_before"} <= set(row)


@pytest.mark.parametrize("shape", ["12,3.5", "0,3.5,9", "12,9,9", "12,1,9", "a,b,c"])
def test_bad_shapes_are_refused(shape, capsys):
    assert main(["bench", "scatterformer", "--shape", shape]) == 2
    assert "--shape must be WINDOWS >= 1 and 1 < MEAN < LONGEST voxels" in capsys.readouterr().err
