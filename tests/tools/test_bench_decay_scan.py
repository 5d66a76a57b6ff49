"""``linzoo bench decay-scan``: what it prints and refuses, whatever the times."""

import json
import re

import pytest
import torch

from linzoo.cli import main
from linzoo.tools import bench_decay_scan, kernel_rivals


@pytest.fixture(autouse=True)
def _one_machine(monkeypatch):
    monkeypatch.setattr(kernel_rivals, "peaks", lambda fastest: {"copy_gbs": 1.0})
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_row_has_the_ratio_to_the_rival_and_what_is_wanted(capsys):
    assert main(["bench", "decay-scan", "--shape", "40,2,8", "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for kind, (rival, least) in bench_decay_scan.KINDS.items():
        (line,) = (x for x in lines if x.strip().startswith(f"{kind}:"))
        assert f"{rival} " in line and f"wanted {least:g}x" in line and "eager" in line


def test_saved_rows_say_what_was_timed_where(tmp_path):
    out = tmp_path / "rows.jsonl"
    words = ["--shape", "40,2,8", "--kind", "mlstm", "rwkv", "--rounds", "5", "--save", "--out", str(out)]
    assert main(["bench", "decay-scan", *words]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["mlstm", "rwkv"]
    assert rows[0]["shape"] == {"N": 40, "H": 2, "D": 8} and set(rows[0]["ratio"]) == {"quadratic"}
    assert rows[1]["threads"] == 1 and rows[1]["least_ratio"] == 5.0
    assert {"command", "commit", "device", "torch", "date", "peaks_before", "peaks_after"} <= set(rows[0])


@pytest.mark.parametrize("kind", bench_decay_scan.KINDS)
def test_the_rival_computes_the_same(kind):
    x = bench_decay_scan.inputs(kind, 70, 2, 8)
    wanted, got = bench_decay_scan.rival_of(kind)(x), bench_decay_scan.ours(kind)(x)
    assert (got - wanted).norm() < 1e-5 * wanted.norm()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--shape", "40,2"], "--shape must be three sizes N,H,D > 0, got '40,2'"),
        (["--shape", "0,2,8"], "--shape must be three sizes N,H,D > 0, got '0,2,8'"),
        (["--rounds", "0"], "--rounds must be >= 1, and >= 5 with --save, got 0"),
        (["--rounds", "4", "--save"], "--rounds must be >= 1, and >= 5 with --save, got 4"),
    ],
    ids=["two sizes", "no tokens", "no rounds", "few rounds"],
)
def test_bad_arguments_are_refused(words, text, capsys):
    assert main(["bench", "decay-scan", *words]) == 2
    assert re.search(text, capsys.readouterr().err)
