"""``linzoo bench diffusion``: points are asked for by name, rows say how they were made."""

import argparse
import json

import pytest

pytest.importorskip("diffusers")

from linzoo.tools import bench_diffusion as bench
from linzoo.tools.demo import worker


def row_of(request, seconds=2.0):
    memory = {"megabytes": 1500.0, "predicted": 1400.0, "weights": 3437.0}
    return request | memory | {"seconds": seconds, "process_seconds": 9.0}


def call(*words):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return bench.run(parser.parse_args(list(words)))


def test_a_point_is_model_attention_and_size():
    assert bench.request_of("sd15:linfusion:2048") == {
        "model": "sd15",
        "attention": "linfusion",
        "size": 2048,
    }
    assert [bench.request_of(point)["model"] for point in bench.POINTS]  # the recorded ones are all valid


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("sd15:clear:512", "point must start with one of sd15:softmax, .*, got 'sd15:clear:512'"),
        ("sd15", "point must start with one of"),
        ("sd15:softmax:500", "size of a point must be a multiple of 64 pixels, got 'sd15:softmax:500'"),
        ("sd15:softmax:-64", "size of a point must be a multiple of 64 pixels"),
    ],
)
def test_other_points_are_refused_before_anything_runs(point, message, monkeypatch):
    monkeypatch.setattr(worker, "run_worker", None)
    with pytest.raises(ValueError, match=message):
        call("sd15:linfusion:64", point)


def test_rows_are_printed_and_kept_only_when_asked(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        worker, "run_worker", lambda module, request: asked.append(request) or row_of(request)
    )
    out = tmp_path / "rows.jsonl"
    assert call("sd15:linfusion:64", "flux_pair:clear:128", "--out", str(out)) == 0
    assert not out.exists() and [request["size"] for request in asked] == [64, 128]
    printed = capsys.readouterr().out.splitlines()
    assert (
        "sd15" in printed[0]
        and "2.0 CPU s" in printed[0]
        and "1.50 GB (1.40 predicted) over 3.44 GB" in printed[0]
    )


def test_save_replaces_the_row_of_its_point_and_no_other(tmp_path, monkeypatch):
    out = tmp_path / "rows.jsonl"
    for seconds in (3.0, 4.0):
        monkeypatch.setattr(worker, "run_worker", lambda _, request, s=seconds: row_of(request, s))
        call("sd15:softmax:64", "--save", "--out", str(out))
        call("sd15:linfusion:64", "--save", "--out", str(out))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["attention"], r["seconds"]) for r in rows] == [("linfusion", 4.0), ("softmax", 4.0)]
    assert rows[1]["command"] == "linzoo bench diffusion sd15:softmax:64 --save"
    assert rows == bench.read(out) and bench.read(tmp_path / "none.jsonl") == []


def test_measures_go_with_the_point_and_into_the_command(tmp_path, monkeypatch):
    out, asked = tmp_path / "rows.jsonl", []
    monkeypatch.setattr(worker, "run_worker", lambda _, request: asked.append(request) or row_of(request))
    call("sd15:linfusion:64", "--save", "--out", str(out), "--measures", "rows", "feed_forward")
    assert asked[0]["measures"] == ["feed_forward", "rows"]
    command = "linzoo bench diffusion sd15:linfusion:64 --measures feed_forward rows --save"
    assert bench.read(out)[0]["command"] == command
    with pytest.raises(ValueError, match="measures must be of feed_forward"):
        call("sd15:linfusion:64", "--measures", "magic")


def test_kept_predictions_lie_within_a_quarter_of_what_was_measured():
    rows = [row for row in bench.read() if "predicted" in row]
    assert rows
    for row in rows:
        assert abs(row["predicted"] - row["megabytes"]) < 0.25 * row["megabytes"], row["command"]


def test_kept_rows_say_how_they_were_made():
    rows = bench.read()
    assert rows
    for row in rows:
        assert row["command"] == bench.command_of(row)
        assert row["device"] and row["commit"] and row["torch"] and row["load"] >= 0
        assert row["dtype"] == "float32" and row["seconds"] > 0 and row["megabytes"] > 0
