"""The demo's LiDAR part: a training that is killed and goes on, a user's KITTI folder, what the page says."""

import json
import re
from copy import deepcopy

import pytest

pytest.importorskip("accelerate")
pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

import torch

from linzoo.pointcloud import create_detector
from linzoo.tools import bench_pointcloud
from linzoo.tools.demo import (
    LEAD,
    PARTS,
    lidar,
    lidar_operators_page,
    lidar_page,
    lidar_recorded_page,
    lidar_training,
)
from linzoo.tools.demo.context import Context
from linzoo.tools.demo.store import PartStore
from linzoo.tools.lidar import loop
from linzoo.tools.street_scenes import detectors, record
from linzoo.tools.street_scenes.detectors import write_start

from ..pointcloud.lidar_folders import scenes, write_kitti

TINY = {"voxels": [60, 120], "group": 32, "judged": 2}


@pytest.fixture(scope="module", autouse=True)
def _start(tmp_path_factory):
    """Random weights for a start, and no variable of the user's."""
    torch.manual_seed(0)
    start = tmp_path_factory.mktemp("weights") / "start.safetensors"
    write_start(create_detector("lion_retnet_small").state_dict(), start)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detectors, "START", start)
        patch.delenv(lidar_training.VARIABLE, raising=False)
        yield


def run(folder, **changes):
    settings = lidar.settings(quick=True) | TINY | changes
    pictures = folder / "lidar"
    pictures.mkdir(exist_ok=True)
    store = PartStore(folder / "state" / "lidar", settings)
    context = Context(folder=pictures, settings=settings, store=store, state=folder / "state")
    return json.loads(json.dumps(lidar.run(context))), pictures


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run that was stopped behind its first update of two, and its continuation."""
    folder, whole, starts = tmp_path_factory.mktemp("demo"), loop.update, []
    with pytest.MonkeyPatch.context() as patch:

        def stopped(run, batches):
            if run.step == 1:
                raise KeyboardInterrupt
            return whole(run, batches)

        patch.setattr(loop, "update", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(folder)
        before = PartStore(folder / "state" / "lidar", lidar.settings(quick=True) | TINY).get("before")
        patch.setattr(loop, "update", lambda run, batches: starts.append(run.step) or whole(run, batches))
        patch.setattr(lidar_training, "start_model", None)  # would fail if it were called again
        section, pictures = run(folder)
    return section, pictures, before, starts, folder


def test_the_part_is_the_demo_s_last():
    assert PARTS[-1] == lidar.NAME == "lidar" and "LiDAR" in LEAD


def test_a_stopped_part_goes_on_behind_the_update_that_was_saved(made):
    section, _, before, starts, _ = made
    assert starts == [1]
    assert section["detector"]["before"] == before
    assert section["detector"]["after"]["updates"] == 2


def test_a_finished_part_works_nothing_out_again(made, monkeypatch):
    section, _, _, _, folder = made
    monkeypatch.setattr(lidar_training, "train_on", None)
    monkeypatch.setattr(bench_pointcloud, "operator_calls", None)
    assert run(folder)[0] == section


def test_training_begins_at_the_committed_weights_and_sees_other_scenes_than_they_did():
    flags = lidar_training.flags_of(lidar.settings(quick=False))
    assert flags["initial_checkpoint"] == detectors.START
    assert flags["scene_seed"] != 0 and flags["max_steps"] == 40
    assert flags["scenes"] == flags["max_steps"] * flags["batch_size"]  # one cycle over the updates


def test_every_picture_is_on_the_page_once(made):
    section, folder, *_ = made
    page = lidar.html(section, folder)
    shown = len(re.findall(r"<(?:img|source) ", page))
    assert shown == len(list(folder.glob("*.png"))) >= 3
    assert "://" not in page


def test_the_table_has_the_figures_before_and_after():
    before = {"Car_ap_3d": 1.0, "mean_ap_3d": 2.0, "Car_centre_error": None}
    after = {"Car_ap_3d": 61.26, "mean_ap_3d": 3.0, "Car_centre_error": 0.123, "Car_yaw_error_2pi": 7.04}
    _, rows = lidar_page.table(before, after, 40)
    assert [row[0] for row in rows] == [
        "Car, start", "Car, 40 updates", "mean, start", "mean, 40 updates"
    ]  # fmt: skip
    assert rows[0][1] == "1.0" and rows[0][4] == "-"
    assert rows[1][1] == "61.3" and rows[1][4] == "0.12 m" and rows[1][6] == "7.0\N{DEGREE SIGN}"


def test_the_page_says_that_scenes_are_drawn_and_what_they_do_not_show(made):
    page = lidar.html(made[0], made[1])
    assert "are drawn" in page and "anything about real traffic" in page
    assert "no training has seen" in page


def test_without_accelerate_the_page_says_so_and_shows_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(lidar, "NEEDED", ("a_package_that_nobody_has",))
    section, folder = run(tmp_path)
    page = lidar.html(section, folder)
    assert "Not installed: a_package_that_nobody_has" in page and "One block of each LION operator" in page
    assert lidar_page.headline(section) == []


def test_the_headline_is_a_figure_on_drawn_scenes_alone(made):
    section = deepcopy(made[0])
    section["detector"]["after"]["metrics"]["mean_ap_bev"] = 71.4
    assert lidar_page.headline(section)[0][0] == "71 %"
    assert lidar_page.headline(section | {"settings": {"kitti": "folder"}}) == []
    section["detector"]["after"]["metrics"]["mean_ap_bev"] = None
    assert lidar_page.headline(section) == []


# operators and backbones


def test_every_operator_is_timed_at_every_size(made):
    rows = made[0]["operators"]
    assert [row["voxels"] for row in rows] == [60, 120]
    for row in rows:
        assert set(row["seconds"]) == {*bench_pointcloud.OPERATORS, bench_pointcloud.WINDOWED}
        assert all(seconds > 0 for seconds in row["seconds"].values())
    assert made[0]["cpu_seconds"] > sum(row["cpu_seconds"] for row in rows)


def timed(voxels, factor):
    seconds = {name: factor * (i + 1) for i, name in enumerate(lidar_operators_page.LABELS)}
    return {"voxels": voxels, "seconds": seconds, "cpu_seconds": 1.0}


def test_the_growth_is_told_beside_that_of_the_tokens():
    """5,000 voxels fill two groups of 4,096: 20,480 tokens are 2.5 times as many."""
    rows = [timed(5_000, 0.01), timed(20_000, 0.025)]
    rows[1]["seconds"]["mamba"] *= 2
    text = lidar_operators_page.growth(rows, 4096)
    assert "From 5,000 to 20,000 voxels, 2.5 times as many tokens" in text
    assert "grows by 2.5\n(RetNet) to 5.0 (Mamba)" in text
    assert lidar_operators_page.growth(rows[:1], 4096) == ""


def test_time_at_the_largest_size_is_told_by_voxel():
    assert lidar_operators_page.per_voxel(timed(20_000, 0.02), "retnet") == "1.0 \N{MICRO SIGN}s a voxel"


def backbone_row(voxels, **ms):
    times = {name: {"median": value, "min": value, "max": value} for name, value in ms.items()}
    about = {"date": "2026-01-01", "device": "a <cpu>", "torch": "2", "commit": "abc", "command": "bench it"}
    return {"what": "backbones", "voxels": voxels, "rounds": 5, "pass": "forward", "ms": times} | about


def test_recorded_backbones_are_marked_and_say_where_they_were_run():
    rows = [backbone_row(20_000, lion_mamba_kitti=41_500.0), backbone_row(5_000, lion_retnet_kitti=1100.0)]
    text = lidar_operators_page.backbones(rows)
    assert "recorded, not re-run" in text
    assert text.index("5,000 voxels") < text.index("20,000 voxels")
    assert "<td>lion_retnet_kitti</td><td>1.10 s</td><td>-</td>" in text
    assert "<td>lion_mamba_kitti</td><td>-</td><td>42 s</td>" in text
    assert "a &lt;cpu&gt;" in text and "bench it" in text
    assert "No times of whole backbones are recorded" in lidar_operators_page.backbones([])


# the long run


def long_row(detector, seed, **metrics):
    base = {
        "Car_ap_3d": 80.0, "Car_ap_bev": 90.0, "Car_centre_error": 0.1, "Car_yaw_error_pi": 4.0,
        "Car_yaw_error_2pi": 21.2, "mean_ap_3d": 70.0, "mean_ap_bev": 75.0, "mean_centre_error": 0.2,
    }  # fmt: skip
    return {
        "detector": detector, "recipe": f"street_{detector}", "seed": seed, "updates": 600, "resumed": False,
        "frames_an_update": 8, "parameters": 1_100_000, "seconds": 100.0, "on": "a <gpu>", "test_scenes": 100,
        "metrics": base | metrics, "command": "run it", "commit": "abc", "date": "2026-01-01", "torch": "2",
    }  # fmt: skip


def test_a_page_without_recorded_rows_says_so(tmp_path):
    assert "No long run on drawn scenes is recorded" in lidar_recorded_page.page_of([], tmp_path)


def test_recorded_rows_are_shown_as_mean_and_range(tmp_path):
    rows = [long_row("lion_mamba", 0, mean_ap_3d=60.0), long_row("lion_mamba", 1, mean_ap_3d=80.0)]
    rows.append(long_row("scatterformer", 0, Car_centre_error=None))
    text = lidar_recorded_page.page_of(rows, tmp_path)
    assert "recorded, not re-run" in text
    assert re.search(r"2\s+seeds", text) and "Pasted" not in text
    row = ("LION-Mamba", "1,100,000", "600 \N{MULTIPLICATION SIGN} 8", "70 (60 - 80)", "75")
    assert "".join(f"<td>{cell}</td>" for cell in row) in text
    assert re.search(r"ScatterFormer, Car</td><td>80</td><td>90</td><td>-</td><td>4\N{DEGREE SIGN}<", text)
    assert "2026-01-01, a &lt;gpu&gt;, torch 2, commit abc" in text and "run it" in text


def test_what_pasting_means_is_said_where_a_detector_was_trained_so(tmp_path):
    text = lidar_recorded_page.page_of([long_row("lion_mamba_pasted", 0)], tmp_path)
    assert "<td>LION-Mamba, pasted</td>" in text and "<b>Pasted</b>: trained on scenes" in text


def test_yaw_errors_are_told_as_the_share_that_is_turned_round():
    """A tenth turned round: 0.9 x 4 + 0.1 x (180 - 4) = 21.2 degrees."""
    text = lidar_recorded_page.headings("lion_retnet", [long_row("lion_retnet", 0)])
    assert text == (
        "LION-RetNet reads the headings of cars (4\N{DEGREE SIGN} off modulo a half turn, 21\N{DEGREE SIGN} "
        "modulo a whole one, as if 10 % were turned round)."
    )
    assert lidar_recorded_page.headings("x", [long_row("x", 0, Car_yaw_error_pi=None)]) == ""


def test_headings_that_are_guessed_are_not_called_read():
    guessed = {"Cyclist_ap_3d": 1.0, "Cyclist_yaw_error_pi": 45.0, "Cyclist_yaw_error_2pi": 90.0}
    text = lidar_recorded_page.headings("lion_mamba", [long_row("lion_mamba", 0, **guessed)])
    assert "reads the headings of cars (" in text and "and hardly reads those of cyclists (90" in text
    row = long_row("lion_mamba", 0, Car_yaw_error_pi=44.0, Car_yaw_error_2pi=88.0)
    assert "LION-Mamba hardly reads the headings of cars (88" in lidar_recorded_page.headings(
        "lion_mamba", [row]
    )


def test_time_of_a_run_that_was_taken_up_again_is_not_shown():
    rows = [long_row("lion_retnet", 0) | {"resumed": True, "seconds": 1.0}, long_row("lion_retnet", 1)]
    rows.append(long_row("lion_retnet", 2) | {"seconds": None})
    assert lidar_recorded_page.whole_row("lion_retnet", rows)[-1] == "2 min"
    assert lidar_recorded_page.whole_row("lion_retnet", rows[:1])[-1] == "-"


def test_recorded_pictures_are_on_the_page(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / record.PICTURE.format("lion_mamba")).write_bytes(b"png")
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    rows = [long_row("lion_mamba", 0), long_row("scatterformer", 0)]
    lidar.copy_pictures(rows, tmp_path)
    assert lidar_recorded_page.page_of(rows, tmp_path).count("<img ") == 1


# a user's KITTI folder


def test_the_variable_must_name_a_kitti_folder(tmp_path, monkeypatch):
    assert lidar_training.kitti_folder() is None
    monkeypatch.setenv(lidar_training.VARIABLE, "")
    assert lidar_training.kitti_folder() is None
    monkeypatch.setenv(lidar_training.VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match="LINZOO_KITTI must be a KITTI folder, with ImageSets and training"):
        lidar.settings(quick=True)


@pytest.mark.parametrize("only", [[], ["--only", "attention"]], ids=["all parts", "another part"])
def test_a_wrong_folder_is_refused_before_the_other_parts_run(tmp_path, monkeypatch, capsys, only):
    from linzoo.cli import main

    monkeypatch.setenv(lidar_training.VARIABLE, str(tmp_path))
    assert main(["demo", "--quick", "--output", str(tmp_path / "demo"), *only]) == 2
    assert "LINZOO_KITTI must be a KITTI folder" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


@pytest.fixture(scope="module")
def kitti(tmp_path_factory):
    """The part on a KITTI folder of three frames, that the variable names."""
    folder = tmp_path_factory.mktemp("kitti")
    splits = {"train": ["000000", "000001"], "val": ["000001", "000002"]}
    data = write_kitti(folder / "data", scenes(3), splits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(lidar_training.VARIABLE, str(data))
        section, pictures = run(folder)
    return section, pictures, data


def test_a_kitti_folder_is_trained_on_and_judged_by_kitti_s_metric(kitti):
    section, _, data = kitti
    assert section["settings"]["kitti"] == str(data)
    after = section["detector"]["after"]
    assert after["updates"] == 2 and section["detector"]["before"]["frames"] == 2
    assert {"score", "Car_3d_moderate", "Cyclist_bev_hard"} <= after["metrics"].keys()


def test_the_page_names_the_folder_and_what_the_detector_sees_of_it(kitti):
    section, folder, data = kitti
    page = lidar.html(section, folder)
    assert str(data) in page and "25.6 m ahead" in page and "count as missed" in page
    assert "AP 3D, MODERATE" in page and "no benchmark figure" in page.replace("\n", " ")
    assert page.count("unseen frame") == len(section["detector"]["after"]["pictures"]) == 1


def test_another_folder_starts_the_part_anew(kitti, tmp_path, monkeypatch):
    assert lidar.settings(quick=True)["kitti"] is None
    monkeypatch.setenv(lidar_training.VARIABLE, str(kitti[2]))
    assert lidar.settings(quick=True)["kitti"] == str(kitti[2].resolve())
