"""``linzoo bench kernels``: what it measures, prints and keeps."""

import argparse
import json

import pytest
import torch

from linzoo.tools import bench_kernels, kernel_rivals

TINY = ["--shape", "1,2,40,8", "--dtype", "float32", "--no-compile"]


def bench(tmp_path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    bench_kernels.add_arguments(parser)
    threads = torch.get_num_threads()
    try:
        return bench_kernels.run(parser.parse_args([*TINY, *words, "--out", str(tmp_path / "rows.jsonl")]))
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def steady(monkeypatch):
    monkeypatch.setattr(kernel_rivals, "peaks", lambda seconds: {"sgemm_gflops": 100.0})


def test_all_rivals_compute_the_same_attention():
    qkv = torch.randn(2, 50, 3 * 2 * 8, dtype=torch.float64)
    wanted = kernel_rivals.upstream(qkv, 2)
    for rival in (kernel_rivals.ours, kernel_rivals.rewrite):
        torch.testing.assert_close(rival(qkv, 2), wanted, rtol=1e-10, atol=1e-12)
    step = kernel_rivals.with_backward(kernel_rivals.upstream)(qkv, 2)
    torch.testing.assert_close(kernel_rivals.with_backward(kernel_rivals.ours)(qkv, 2), step)


def test_softmax_is_timed_on_a_slice_of_long_rows_and_the_row_says_so(tmp_path, steady, monkeypatch, capsys):
    monkeypatch.setattr(kernel_rivals, "SDPA_QUERIES", 10)
    assert bench(tmp_path, "--save", "--only", "forward") == 0
    (row,) = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert row["softmax_scaled_from_queries"] == 10
    assert kernel_rivals.softmax(torch.randn(1, 40, 48), 2).shape[2] == 10
    assert "* scaled" in capsys.readouterr().out


def test_saved_rows_hold_ratio_spread_device_and_commit(tmp_path, steady):
    assert bench(tmp_path, "--save") == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["pass"] for row in rows] == ["forward", "training"]
    for row in rows:
        assert (
            row["ratio"]["upstream"]["min"]
            <= row["ratio"]["upstream"]["median"]
            <= row["ratio"]["upstream"]["max"]
        )
        assert {"device", "commit", "torch", "threads", "peaks_before", "peaks_after", "rounds"} <= row.keys()
    assert rows[0]["allocated_over_output"] >= 1


def test_nothing_is_saved_when_the_machine_drifts(tmp_path, monkeypatch, capsys):
    readings = iter([{"copy_gbs": 10.0}, {"copy_gbs": 8.0}])
    monkeypatch.setattr(kernel_rivals, "peaks", lambda seconds: next(readings))
    assert bench(tmp_path, "--save", "--no-softmax") == 1
    assert not (tmp_path / "rows.jsonl").exists()
    assert "not saved" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["--shape", "1,2,0,8"], ["--shape", "1,2,8"], ["--rounds", "0"], ["--save", "--rounds", "2"]]
)
def test_bad_requests_are_refused(tmp_path, steady, words):
    with pytest.raises(ValueError, match="must be"):
        bench(tmp_path, *words)
