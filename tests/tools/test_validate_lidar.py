"""``linzoo validate`` of LiDAR detectors: the data set's own figures as json, files for a benchmark."""

import json

import pytest
import torch

from linzoo import cli
from linzoo.pointcloud import create_detector
from linzoo.pointcloud.data.kitti import KittiFrames
from linzoo.pointcloud.data.kitti_export import read_kitti_detections
from linzoo.pointcloud.data.synthetic import SyntheticScenes

from ..pointcloud.lidar_folders import kitti_label, scenes, write_kitti
from .lidar_runs import SCATTERFORMER, one_thread, refused, small, words

pytestmark = pytest.mark.usefixtures(one_thread.__name__, small.__name__)
SCENES = [*SCATTERFORMER, *words("--dataset synthetic --val-scenes 2 --device cpu")]


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    detector = create_detector("scatterformer_tiny")
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": detector.state_dict()}, path)
    return path


def validate(*given):
    return cli.main(["validate", *map(str, given)])


def printed(capsys):
    out = capsys.readouterr().out
    assert out.startswith("--result\n")
    return json.loads(out.removeprefix("--result\n"), parse_constant=pytest.fail)  # no NaN


def test_figures_are_the_data_sets_own_and_json(tmp_path, capsys, weights):
    assert validate(*SCENES, "--checkpoint", weights, "--results-file", tmp_path / "out.json") == 0
    shown, stored = printed(capsys), json.loads((tmp_path / "out.json").read_text())
    frames = SyntheticScenes("val", 2)
    detector = create_detector("scatterformer_tiny", checkpoint=weights).eval()
    found = detector.detect([frames[0].points, frames[1].points])
    expected = frames.score(found, [frames.metric_labels(frames[i]) for i in range(2)])
    assert (stored["detector"], stored["frames"]) == ("scatterformer_tiny", 2)
    assert set(stored) == {"detector", "frames", *expected} == set(shown)
    for name, value in expected.items():
        assert stored[name] is None if value != value else stored[name] == pytest.approx(value, abs=1e-6)


def test_perfect_detections_score_everything(capsys, weights, monkeypatch):
    from linzoo.pointcloud import Detections, Detector

    frames = SyntheticScenes("val", 2)
    known = {frames[i].points.sum().item(): frames[i].labels for i in range(2)}

    def detect(self, points):
        labels = [known[p.sum().item()] for p in points]
        return [Detections(each.boxes, torch.ones(len(each.boxes)), each.classes) for each in labels]

    monkeypatch.setattr(Detector, "detect", detect)
    assert validate(*SCENES, "--checkpoint", weights) == 0
    assert printed(capsys)["score"] == pytest.approx(100.0)


def test_kitti_detections_are_exported_and_read_back(tmp_path, capsys, weights, monkeypatch):
    from linzoo.pointcloud import Detections, Detector

    write_kitti(tmp_path / "kitti", scenes(2))
    frames = KittiFrames(tmp_path / "kitti", "val")
    labels = [frames[i].labels for i in range(2)]
    calls = iter(labels)

    def detect(self, points):
        return [
            Detections(each.boxes, torch.full((len(each.boxes),), 0.5), each.classes)
            for each in (next(calls) for _ in points)
        ]

    monkeypatch.setattr(Detector, "detect", detect)
    line = [*SCATTERFORMER, "--dataset", "kitti", "--data-dir", tmp_path / "kitti", "--device", "cpu"]
    assert validate(*line, "--checkpoint", weights, "--export", tmp_path / "out") == 0
    assert "Car_3d_moderate" in printed(capsys)
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["000000.txt", "000001.txt"]
    for index, file in enumerate(files):
        camera = frames.metric_labels(frames[index]).camera
        back = read_kitti_detections(file, camera, frames.classes).boxes
        assert 0 < len(back) <= len(labels[index].boxes)  # the camera does not see them all
        apart = torch.cdist(back[:, :6].double(), labels[index].boxes[:, :6].double()).amin(1)
        assert apart.max() < 1e-3


def test_a_label_that_cannot_be_scored_is_named_before_the_detector_runs(
    tmp_path, capsys, weights, monkeypatch
):
    from linzoo.pointcloud import Detector

    folder = write_kitti(tmp_path / "kitti", scenes(2))
    labels = folder / "training/label_2/000000.txt"
    labels.write_text(labels.read_text() + kitti_label("Car", (10, 0, -1, 4, 0, 1.5, 0)))
    monkeypatch.setattr(Detector, "detect", lambda *_: pytest.fail("ran"))
    line = [*SCATTERFORMER, "--dataset", "kitti", "--data-dir", folder, "--device", "cpu"]
    status = validate(*line, "--checkpoint", weights)
    wanted = ("frame 000000 cannot be scored: object ", "sizes above 0, got [10.0, ")
    refused(capsys, status, *wanted, name="validate")


def test_nuscenes_detections_are_exported_by_sample(tmp_path):
    from types import SimpleNamespace

    import numpy as np

    from linzoo.pointcloud import Detections
    from linzoo.pointcloud.metrics import NUSCENES_CLASSES
    from linzoo.tools.lidar.export import export

    moved = np.eye(4)
    moved[0, 3] = 100.0
    frames = SimpleNamespace(
        classes=NUSCENES_CLASSES, record=lambda index: {"name": f"token{index}", "to_global": moved.tolist()}
    )
    box = torch.tensor([[1.0, 2, 0, 4, 2, 1.5, 0.3, 0, 0]])
    found = [
        Detections(box, torch.tensor([0.5]), torch.tensor([0])),
        Detections(box[:0], box[0, :0], box[0, :0].long()),
    ]
    export("nuscenes", frames, found, tmp_path / "sub.json")
    results = json.loads((tmp_path / "sub.json").read_text())["results"]
    assert results["token1"] == [] and results["token0"][0]["sample_token"] == "token0"
    assert results["token0"][0]["translation"] == pytest.approx([101.0, 2.0, 0.0])


def test_a_recipe_says_model_and_data_but_not_how_many_frames_at_once(tmp_path, capsys, weights):
    (tmp_path / "mine.toml").write_text(
        "[model]\ndetector = 'scatterformer_tiny'\n[data]\ndataset = 'synthetic'\nscenes = 9\n"
        "val_scenes = 1\nbatch_size = 64\n[optimizer]\nlr = 1e-3\n"
    )
    assert validate(tmp_path / "mine.toml", "--checkpoint", weights, "--device", "cpu") == 0
    assert printed(capsys)["frames"] == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{ok}", "--checkpoint must be a file of weights, got none"),
        ("{ok} --checkpoint nowhere.pth", "--checkpoint: checkpoint must be a file, got nowhere.pth"),
        ("{ok} --checkpoint {weights} --val-scenes 0", "--val-scenes must be at least 1, got 0"),
        ("{ok} --checkpoint {weights} -b 0", "--batch-size must be at least 1, got 0"),
        ("{ok} --checkpoint {weights} --val-split x", "--val-split must be one of train, val, test"),
        ("{ok} --checkpoint {weights} --export x", "--export must go with the data set kitti or nuscenes"),
        ("{ok} --checkpoint {weights} --device toaster", "--device must be"),
        (
            "{ok} --checkpoint {weights} --sweeps 3",
            "--sweeps must go with the data set nuscenes, got synthetic",
        ),
        (
            "{ok} --checkpoint {weights} --results-file {folder}",
            "--results-file must be a file, {folder} is a",
        ),
        ("{kitti} --export {weights}", "--export must be a folder for kitti, {weights} is a file"),
        ("{nuscenes} --export {folder}", "--export must be a json file for nuscenes, {folder} is a folder"),
        (
            "{kitti} --prepared {folder}",
            "--prepared must be a folder that prepare-lidar has filled, got {folder}",
        ),
        (
            "{ok} --checkpoint {weights} --prepared x",
            "--prepared: the synthetic scenes are drawn, not read, got x",
        ),
        ("{ok} --checkpoint {weights} --results-file {weights}/x.json", "--results-file must be a folder"),
        ("--detector scatterformer_tiny", "--dataset must be synthetic, kitti, nuscenes or waymo, got none"),
        ("-c lion_retnet_kitti", "--data-dir must be the folder of the data set kitti, got none"),
        ("--detector lion_retnet_tiny --dataset synthetic --checkpoint {weights}", "must hold the"),
        (
            "--detector scatterformer_many --dataset synthetic --checkpoint {weights}",
            "--detector scatterformer_many takes 5 values a point; --dataset synthetic has 4",
        ),
        (
            "--detector scatterformer_else --dataset synthetic --checkpoint {weights}",
            "--detector scatterformer_else finds Car; --dataset synthetic has Car, Pedestrian, Cyclist",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(tmp_path, capsys, weights, monkeypatch, line, message):
    from dataclasses import replace

    from linzoo.pointcloud import detectors

    tiny = detectors.DETECTORS["scatterformer_tiny"]
    others = {
        "scatterformer_many": replace(tiny, point_features=5),
        "scatterformer_else": replace(tiny, classes=("Car",)),
    }
    monkeypatch.setattr(detectors, "DETECTORS", {**detectors.DETECTORS, **others})
    for name in others:
        if name in line:
            torch.save({"state_dict": create_detector(name).state_dict()}, weights)
    (tmp_path / "folder").mkdir()
    ok = f"--detector scatterformer_tiny --data-dir {tmp_path} --device cpu --checkpoint {weights} --dataset"
    places = {"weights": weights, "folder": tmp_path / "folder"}
    starts = {"ok": " ".join(SCENES), "kitti": f"{ok} kitti", "nuscenes": f"{ok} nuscenes"}
    before = sorted(tmp_path.iterdir())
    status = validate(*words(line.format(**starts, **places)))
    refused(capsys, status, message.format(**places), name="validate")
    assert status == 2 and sorted(tmp_path.iterdir()) == before
