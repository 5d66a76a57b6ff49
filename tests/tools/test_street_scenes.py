"""The long run on street scenes: every detector and seed once, gathered, resumed; the committed start."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("accelerate")
pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

import torch

from linzoo.pointcloud import create_detector
from linzoo.pointcloud.data.shapes import CLASSES
from linzoo.pointcloud.data.synthetic import SyntheticScenes
from linzoo.tools.files import write_rows
from linzoo.tools.lidar.pictures import bird_eye
from linzoo.tools.runs.log import Log
from linzoo.tools.street_scenes import detectors, headings, judge, record
from linzoo.tools.street_scenes import run as run_command

TINY = {"scenes": 2, "batch_size": 1, "save_interval": 1}  # two updates
CPU = torch.device("cpu")
NAMES = ("lion_retnet", "scatterformer")
# the long run with everything small, in a process that can be killed
COMMAND = """
import json, pathlib, sys
from linzoo.tools.street_scenes import record
record.RECIPES = {name: record.RECIPES[name] for name in sys.argv[2].split(",")}
record.SEEDS, record.TEST_SCENES, record.SHOWN = (0,), 1, 1
output = pathlib.Path(sys.argv[1])
record.record(output, "cpu", 0, results=output / "results", **json.loads(sys.argv[3]))
"""


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(record, "RECIPES", {name: detectors.RECIPES[name] for name in NAMES})
    monkeypatch.setattr(record, "SEEDS", (0,))
    monkeypatch.setattr(record, "TEST_SCENES", 1)
    monkeypatch.setattr(record, "SHOWN", 1)


def rows_in(output):
    return record.recorded(output / "results")


# the long run


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run killed when its first detector had made one update of two, then left to end."""
    output = tmp_path_factory.mktemp("killed")
    saved = output / "full" / "lion_retnet-0" / "last.pth.tar"
    words = [sys.executable, "-c", COMMAND, str(output), ",".join(NAMES), json.dumps(TINY)]
    with open(output / "log", "w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
        limit = time.monotonic() + 300
        while not saved.exists():
            assert process.poll() is None, (output / "log").read_text()
            assert time.monotonic() < limit
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    before = torch.load(saved, weights_only=True)["step"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return output, before, done.stderr


def test_a_killed_run_goes_on_from_its_checkpoint(killed):
    output, before, said = killed
    assert before == 1 and "Resumed from" in said
    first, second = rows_in(output)
    assert (first["resumed"], second["resumed"]) == (True, False)
    assert first["updates"] == second["updates"] == 2


def test_rows_say_what_was_run_where_and_what_came_out(killed):
    for row, name in zip(rows_in(killed[0]), NAMES, strict=True):
        assert (row["detector"], row["recipe"], row["seed"]) == (name, detectors.RECIPES[name], 0)
        assert row["command"] == record.COMMAND and row["frames_an_update"] == 1
        assert {"commit", "date", "torch", "on", "parameters", "seconds"} <= row.keys()
        assert (
            row["test_scenes"] == 1 and {"score", "mean_ap_bev", "Car_yaw_error_2pi"} <= row["metrics"].keys()
        )
        assert (killed[0] / "results" / record.PICTURE.format(name)).read_bytes()[:4] == b"\x89PNG"


def test_figures_that_are_not_defined_are_null_in_the_rows(killed):
    """Two updates find nothing: an error of nothing is no number, and NaN would be no JSON."""
    text = (killed[0] / "results" / record.ROWS).read_text()
    assert "NaN" not in text
    assert rows_in(killed[0])[0]["metrics"]["Car_centre_error"] is None


def test_what_is_finished_is_gathered_not_repeated(killed, monkeypatch, tmp_path):
    monkeypatch.setattr(record, "train_one", None)  # would fail if called
    record.record(killed[0], "cpu", 0, results=tmp_path, **TINY)
    assert record.recorded(tmp_path) == rows_in(killed[0])


def test_one_seed_alone_replaces_nothing(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(record, "one_row", lambda name, seed, *_: made.append((name, seed)))
    monkeypatch.setattr(record, "SEEDS", (0, 1))
    record.record(tmp_path, "cpu", 0, only=("scatterformer", 1), results=tmp_path / "results")
    record.record(tmp_path, "cpu", 0, only=(None, 0), results=tmp_path / "results")
    assert made == [("scatterformer", 1), ("lion_retnet", 0), ("scatterformer", 0)]
    assert not (tmp_path / "results").exists()


def test_one_detector_alone_replaces_its_own_rows_and_picture(killed, tmp_path):
    other = {"detector": "lion_retnet", "seed": 0, "metrics": {}}
    old = {"detector": "scatterformer", "seed": 7}
    unknown = {"detector": "of a recipe that is gone", "seed": 0}
    write_rows(tmp_path / record.ROWS, [other, old, unknown])
    record.record(killed[0], "cpu", 0, only=("scatterformer", None), results=tmp_path, **TINY)
    assert record.recorded(tmp_path) == [other, rows_in(killed[0])[1]]
    assert [file.name for file in tmp_path.glob("*.png")] == [record.PICTURE.format("scatterformer")]


def test_the_command_hands_its_flags_on_and_forgets_when_asked(monkeypatch, tmp_path):
    import argparse

    from linzoo.tools.street_scenes import add_arguments

    parser, seen = argparse.ArgumentParser(), []
    add_arguments(parser)
    monkeypatch.setattr(record, "record", lambda *a, **k: seen.append((a, k)))
    for name in ("lion_mamba-1", "lion_mamba-2", "lion_mamba_pasted-2"):
        (tmp_path / "full" / name).mkdir(parents=True)
    words = ["full", "--output", str(tmp_path), "--detector", "lion_mamba", "--seed", "2", "--device", "cpu"]
    assert run_command(parser.parse_args([*words, "--restart"])) == 0
    assert seen == [((tmp_path, "cpu", 0), {"only": ("lion_mamba", 2)})]
    assert {each.name for each in (tmp_path / "full").iterdir()} == {"lion_mamba-1", "lion_mamba_pasted-2"}


@pytest.mark.parametrize("task", ["headings", "start"])
def test_a_detector_or_a_seed_of_another_task_is_refused(task):
    import argparse

    from linzoo.tools.street_scenes import add_arguments

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for flag, value in (("--detector", "lion_mamba"), ("--seed", "0")):
        with pytest.raises(ValueError, match=f"{flag} is a flag of full, {task} takes none"):
            run_command(parser.parse_args([task, flag, value]))


# training


def test_scenes_that_are_judged_are_none_that_are_trained_on():
    def first(split):
        return SyntheticScenes(split, 1)[0].points

    assert first("train").shape != first("test").shape or not torch.equal(first("train"), first("test"))
    assert torch.equal(first("test"), first("test"))


@pytest.mark.parametrize("pasted", [False, True])
def test_the_recipes_of_a_kind_differ_in_the_detector_alone(pasted):
    from linzoo.tools.train_lidar import parse

    recipes = [recipe for recipe in detectors.RECIPES.values() if recipe.endswith("_pasted") == pasted]
    assert len(recipes) == 3
    words = [vars(parse([recipe])) for recipe in recipes]
    for other in words[1:]:
        assert {name for name in other if other[name] != words[0][name]} == {"config", "detector"}


# judging


def test_a_picture_has_sure_boxes_alone_and_the_part_that_the_detector_sees(monkeypatch):
    seen = {}

    def watched(points, found, classes, **words):
        seen.update(found=found, **words)
        return bird_eye(points, found, classes, **words)

    monkeypatch.setattr(judge, "bird_eye", watched)
    model, frames = create_detector("lion_retnet_small"), SyntheticScenes("test", 1)
    assert judge.draw(model, frames, 0, CPU)[:4] == b"\x89PNG"
    assert seen["area"] == (0.0, -12.8, 25.6, 12.8) and len(seen["labels"].boxes) > 0
    assert (seen["found"].scores >= judge.SHOWN_SCORE).all()
    assert not model.training


def test_no_more_frames_are_judged_than_there_are():
    model = create_detector("scatterformer_small")
    figures = judge.judge(model, SyntheticScenes("test", 1), CPU, Log(False), 5)
    assert figures["mean_objects"] == len(SyntheticScenes("test", 1)[0].labels.boxes)


# the start


def test_a_start_comes_back_but_for_rounding(tmp_path):
    weights = create_detector("lion_retnet_small").state_dict()
    detectors.write_start(weights, tmp_path / "start.safetensors")
    back = detectors.read_start(tmp_path / "start.safetensors")
    assert back.keys() == weights.keys()
    for name, tensor in weights.items():
        assert back[name].dtype == tensor.dtype
        torch.testing.assert_close(back[name], tensor, rtol=1e-3, atol=1e-6)
    assert (tmp_path / "start.safetensors").stat().st_size <= 3e6


def test_a_detector_is_filled_from_a_start(tmp_path):
    weights = create_detector("lion_retnet_small").state_dict()
    detectors.write_start(weights, tmp_path / "start.safetensors")
    model = create_detector("lion_retnet_small", checkpoint=tmp_path / "start.safetensors")
    for name, tensor in detectors.read_start(tmp_path / "start.safetensors").items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_the_start_is_trained_with_a_seed_of_its_own_and_stops_early(monkeypatch, tmp_path):
    seen = {}

    class Run:
        model = create_detector("lion_retnet_small")

    def train(name, output, **words):
        seen.update(words, name=name)
        return Run(), 1.0

    monkeypatch.setattr(detectors, "train_one", train)
    monkeypatch.setattr(detectors, "START", tmp_path / "weights" / "start.safetensors")
    detectors.make_start(tmp_path, "cpu", 0)
    assert seen["name"] == "lion_retnet" and seen["seed"] not in detectors.SEEDS
    assert seen["max_steps"] == detectors.START_UPDATES
    assert (tmp_path / "weights" / "start.safetensors").exists()


@pytest.mark.skipif(not detectors.START.exists(), reason="no start is committed")
def test_the_committed_start_is_small_and_fits():
    assert Path(detectors.START).stat().st_size <= 3e6
    create_detector("lion_retnet_small", checkpoint=detectors.START)


@pytest.mark.skipif(not record.recorded(), reason="no rows are committed")
def test_a_detector_with_committed_rows_has_them_for_every_seed_alike_and_a_picture():
    of = {name: [row for row in record.recorded() if row["detector"] == name] for name in detectors.RECIPES}
    assert sum(map(len, of.values())) == len(record.recorded())
    for name, rows in of.items():
        assert not rows or [row["seed"] for row in rows] == list(detectors.SEEDS)
        assert not rows or (record.RESULTS / record.PICTURE.format(name)).exists()
        for key in ("updates", "frames_an_update", "test_scenes", "command", "recipe"):
            assert len({row[key] for row in rows}) <= 1
        for row in rows:
            assert {"commit", "date", "on", "torch", "seconds", "resumed", "parameters"} <= row.keys()
            assert row["recipe"] == detectors.RECIPES[name]


# headings without a detector


def bars(yaw: float):
    """A frame with one pedestrian at a place of its own, a bar of points from the centre to its front."""
    from linzoo.pointcloud.records import Frame, Labels

    along = torch.linspace(0, 0.35, 8)
    x, y = 10 + along * math.cos(yaw), 2 + along * math.sin(yaw)
    points = torch.stack((x, y, torch.zeros(8), torch.zeros(8)), dim=1)
    street = torch.tensor([[10.0, 2.1, -0.87, 0.0], [11.5, 2.0, 0.0, 0.0]])  # beneath and beside it
    boxes = torch.tensor([[10.0, 2.0, 0.0, 0.8, 0.7, 1.75, yaw]])
    return Frame(points=torch.cat((points, street)), labels=Labels(boxes, torch.tensor([1])), name="bar")


def test_a_crop_holds_the_points_about_its_object_alone_from_its_centre():
    (crops,) = headings.gather([bars(0.5)]).values()
    assert crops.points.shape == (1, headings.POINTS, 4) and crops.yaw.tolist() == [0.5]
    assert crops.points[0, :, :2].norm(dim=1).max() <= 0.351 and crops.points[0, :, 2].abs().max() == 0
    assert len(crops.points[0].unique(dim=0)) == 8  # every point that is there, none of the street's


def test_headings_that_the_points_tell_are_read_and_those_that_they_do_not_tell_are_not():
    frames = [bars(yaw) for yaw in torch.linspace(-3, 3, 2048).tolist()]
    crops = headings.gather(frames)["Pedestrian"]
    told = headings.errors(headings.learn(crops, 0.0, 0), crops, 0.0)
    assert told["yaw_error_2pi"] < 15
    crops.yaw = crops.yaw[torch.randperm(len(crops), generator=torch.Generator().manual_seed(0))]
    untold = headings.errors(headings.learn(crops, 0.0, 0), crops, 0.0)
    assert untold["yaw_error_2pi"] > 70 and 35 < untold["yaw_error_pi"] < 55


def test_an_unknown_place_moves_the_points_together():
    points = torch.rand(5, 7, 4)
    off = headings.moved(points, 0.32, torch.Generator().manual_seed(0)) - points
    assert torch.equal(headings.moved(points, 0.0, torch.Generator()), points)
    assert off[..., 2:].abs().max() == 0 and 0.1 < off.abs().max() <= 0.321
    torch.testing.assert_close(off, off[:, :1].expand_as(off))


def test_the_headings_are_recorded_by_class_offset_and_seed(monkeypatch, tmp_path):
    monkeypatch.setattr(headings, "SCENES", 2)
    monkeypatch.setattr(headings, "TEST_SCENES", 2)
    monkeypatch.setattr(headings, "SEEDS", (0,))
    headings.record_headings(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / headings.ROWS).read_text().splitlines()]
    assert [(row["class"], row["offset"]) for row in rows] == [
        (name, offset) for name in ("Car", "Pedestrian", "Cyclist") for offset in headings.OFFSETS
    ]
    for row in rows:
        assert 0 <= row["yaw_error_pi"] <= 90 and row["yaw_error_pi"] <= row["yaw_error_2pi"] <= 180
        assert {"commit", "date", "on", "torch", "seconds", "objects", "scenes"} <= row.keys()


def test_the_readme_tells_the_recorded_headings():
    rows = [json.loads(line) for line in (record.RESULTS / headings.ROWS).read_text().splitlines()]
    told = []
    for offset in headings.OFFSETS:
        for name in CLASSES:
            off = [r["yaw_error_2pi"] for r in rows if (r["class"], r["offset"]) == (name, offset)]
            assert len(off) == len(detectors.SEEDS)
            told.append(f"{sum(off) / len(off):.0f}°")
    words = "reads them to {}, {} and {}, with a place that is off by up to 0.32 m to {}, {} and {}"
    assert words.format(*told) in (record.RESULTS.parents[1] / "README.md").read_text(encoding="utf-8")
