"""``linzoo bench pointcloud``: what it times, prints, keeps and refuses, whatever the times."""

import json
import re

import pytest
import torch

from linzoo.cli import main
from linzoo.kernels import submanifold_pairs
from linzoo.pointcloud.lion.variants import FORMS
from linzoo.tools import bench_pointcloud, bench_rows, kernel_rivals
from linzoo.tools.bench_pointcloud_cells import street_cells

GRID = FORMS["kitti"].grid.shape


@pytest.fixture(autouse=True)
def _steady_peaks(monkeypatch):
    monkeypatch.setattr(kernel_rivals, "peaks", lambda fastest: {"copy_gbs": 1.0})


@pytest.mark.parametrize("voxels", [600, 5000])
def test_cells_are_as_many_as_asked_none_twice_with_about_seven_neighbours(voxels):
    cells = street_cells(voxels, GRID)
    assert cells.shape == (voxels, 4) and cells.dtype == torch.int64
    assert len(torch.unique(cells, dim=0)) == voxels
    assert (cells[:, 1:] >= 0).all() and (cells[:, 1:] < torch.tensor(GRID)).all()
    neighbours = len(submanifold_pairs(cells, GRID)) / voxels - 1
    assert neighbours == pytest.approx(7, abs=0.6)


def test_a_grid_without_enough_columns_is_refused():
    with pytest.raises(ValueError, match="101 voxels need a grid 8 cells high with as many columns"):
        street_cells(101, (8, 10, 10))


def test_operators_see_groups_filled_by_voxels_that_come_twice(monkeypatch):
    """600 voxels in groups of 256: three full groups; attention in windows sees every voxel once."""
    seen = {}

    def watched(call, x, kind, *others):
        seen[type(call).__name__] = tuple(x.shape)
        return lambda: call(x, *others)

    monkeypatch.setattr(bench_pointcloud, "passed", watched)
    calls = bench_pointcloud.operator_calls(600, ("retnet", "linear", "scatterformer"), group=256)
    assert seen == {
        "RetNetBlock": (3, 256, 64),
        "LinearBlock": (3, 256, 64),
        "ScatteredLinearAttention": (600, 64),
    }
    assert calls["retnet"]().shape == (3, 256, 64)


def test_every_operator_and_backbone_that_is_timed_exists():
    for name in bench_pointcloud.BACKBONES:
        backbone, width, shape = bench_pointcloud.built(name)
        operators = {type(m).__name__ for m in backbone.modules()}
        if name.startswith("lion"):
            assert any(name.split("_")[1] == o.removesuffix("Block").lower() for o in operators)
        assert width == 64 and shape[0] == 32


def test_a_backbone_sorts_its_voxels_anew_in_every_call():
    backbone, width, shape = bench_pointcloud.built("scatterformer_waymo")
    street = bench_pointcloud.drawn(300, shape, width)
    with torch.inference_mode():
        bench_pointcloud.over(backbone, street)(street.features)
    assert street.cache == {}


def test_a_row_has_the_times_of_all_that_was_asked_for(capsys):
    words = ["--only", "retnet", "--only", "scatterformer", "--only", "lion_linear_kitti"]
    assert main(["bench", "pointcloud", "--voxels", "300", "--rounds", "1", *words]) == 0
    out = capsys.readouterr().out
    assert re.search(r"300 voxels, operators, forward: retnet .* ms .*, scatterformer .* ms", out)
    assert re.search(r"300 voxels, backbones, forward: lion_linear_kitti .* ms", out)
    assert "mamba" not in out


def test_training_reaches_the_voxels_and_the_parameters():
    x = torch.randn(2, 4, 3, requires_grad=True)
    layer = torch.nn.Linear(3, 3)
    assert bench_pointcloud.passed(layer, x, "training")().shape == x.shape
    assert not bench_pointcloud.passed(layer, x, "forward")().requires_grad


def test_saving_replaces_the_rows_of_what_is_measured_alone(tmp_path):
    out = tmp_path / "rows.jsonl"
    old = {"what": "operators", "voxels": 300, "pass": "forward", "ms": {}, "device": "an older machine"}
    others = [old | {"what": "backbones"}, old | {"voxels": 7}, old | {"pass": "training"}]
    out.write_text("".join(json.dumps(row) + "\n" for row in [old, *others]))
    words = ["--what", "operators", "--only", "linear", "--voxels", "300", "--save", "--out", str(out)]
    assert main(["bench", "pointcloud", *words]) == 0
    *kept, row = bench_pointcloud.recorded(out)
    assert kept == others
    assert (row["what"], row["voxels"], row["pass"], row["rounds"]) == ("operators", 300, "forward", 5)
    assert (row["channels"], row["group"], set(row["ms"])) == (64, 4096, {"linear"})
    assert row["command"] == "linzoo bench pointcloud --what operators --voxels 300 --save"
    assert {"commit", "device", "torch", "threads", "date", "peaks_before"} <= row.keys()


def test_there_may_be_no_rows_yet(tmp_path):
    assert bench_pointcloud.recorded(tmp_path / "none.jsonl") == []


def test_rounds_that_warm_up_are_not_counted():
    calls = []
    times = bench_rows.interleaved({"a": lambda: calls.append(1)}, 3, warm_up=2)
    assert len(calls) == 5 and len(times["a"]) == 3


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--voxels", "0"], "--voxels must be >= 1, got 0"),
        (["--only", "lstm"], "--only must be of retnet, .*, got lstm"),
        (["--what", "operators", "--only", "lion_retnet_kitti"], "got lion_retnet_kitti"),
        (["--rounds", "4", "--save"], "--rounds must be >= 1, and >= 5 with --save, got 4"),
    ],
    ids=["no voxels", "unknown", "other kind", "few rounds"],
)  # fmt: skip
def test_bad_arguments_are_refused(words, text, capsys):
    assert main(["bench", "pointcloud", *words]) == 2
    assert re.search(text, capsys.readouterr().err)
