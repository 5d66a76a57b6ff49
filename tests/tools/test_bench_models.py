"""``linzoo bench models``: what it prints, writes and refuses."""

import csv
import json

import pytest
import torch

from linzoo.cli import main


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def bench(*words):
    return main(["bench", "models", *words])


def test_models_by_wildcard_at_several_sizes_go_to_a_csv(tmp_path, capsys):
    path = tmp_path / "out.csv"
    code = bench(
        "--model-list", "nalaformer_x*", "--img-size", "64", "96", "--num-warm-iter", "0",
        "--num-bench-iter", "1", "--results-file", str(path),
    )  # fmt: skip
    assert code == 0
    rows = list(csv.DictReader(path.open()))
    assert [(r["model"], r["img_size"], r["form"]) for r in rows] == [
        ("nalaformer_xt", size, form) for size in ("64", "96") for form in ("eager", "folded")
    ]
    assert all(float(r["ms_per_step"]) > 0 and float(r["peak_mb"]) > 0 for r in rows)
    assert float(rows[2]["gmacs"]) > 1.5 * float(rows[0]["gmacs"])
    assert float(rows[0]["param_count_m"]) == pytest.approx(6.14, abs=0.01)
    assert "nalaformer_xt" in capsys.readouterr().out


def test_rows_against_upstream_are_kept_with_machine_and_commit(tmp_path):
    path = tmp_path / "rows.jsonl"
    words = ["--model", "nalaformer_xt", "--img-size", "64", "--num-bench-iter", "5", "--against-upstream"]
    assert bench(*words, "--save", "--out", str(path)) == 0
    (row,) = map(json.loads, path.read_text().splitlines())
    assert set(row["ms"]) == {"eager", "folded", "upstream"} and set(row["upstream_over"]) == {
        "eager",
        "folded",
    }
    ratio = row["upstream_over"]["folded"]
    assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]
    assert {"command", "device", "torch", "commit", "threads", "date", "rounds"} <= set(row)


def test_timms_own_models_are_timed_by_name_or_where_no_model_of_ours_fits(tmp_path):
    path = tmp_path / "out.csv"
    words = ["--img-size", "64", "--num-warm-iter", "0", "--num-bench-iter", "1", "--results-file", str(path)]
    assert bench("--model", "efficientvim_m1", "efficientvim_m[2]", *words) == 0
    rows = list(csv.DictReader(path.open()))
    assert [(r["model"], r["form"]) for r in rows] == [
        ("efficientvim_m1", "eager"),
        ("efficientvim_m2", "eager"),
    ]
    assert float(rows[0]["param_count_m"]) == pytest.approx(6.68, abs=0.01)


def test_a_rival_that_is_not_written_down_is_refused_before_anything_is_timed(capsys):
    words = ["--img-size", "64", "--against-upstream"]
    assert bench("--model", "nalaformer_xt", "efficientvim_m1", *words) == 2
    captured = capsys.readouterr()
    assert "--against-upstream: not available for efficientvim_m1" in captured.err and not captured.out


def test_half_precision_and_autocast_run():
    for precision in ("bfloat16", "amp"):
        assert bench("--model", "nalaformer_xt", "--img-size", "64", "--num-bench-iter", "1",
                     "--precision", precision) == 0  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "ravlt_tniy"], "ravlt_tiny"),
        (["--model", "no_such_*"], "no_such_"),
        (["--img-size", "16"], "--img-size must be at least 32"),
        (["--num-bench-iter", "0"], "--num-bench-iter must be at least 1"),
        (["--save"], "--save needs --against-upstream"),
        (["--save", "--against-upstream", "--num-bench-iter", "3"], "--num-bench-iter must be at least 5"),
    ],
)
def test_wrong_arguments_are_named(words, message, capsys):
    assert bench(*words) != 0
    assert message in capsys.readouterr().err


def test_by_default_one_size_of_every_family_and_of_efficientvim_is_timed():
    import argparse

    from linzoo.tools.bench_models import add_arguments, plan
    from linzoo.vision import FAMILIES

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    names, sizes = plan(parser.parse_args([]))
    assert {name.partition("_")[0] for name in names} == {*FAMILIES, "efficientvim"} and sizes == [224]
