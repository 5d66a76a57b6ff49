"""``linzoo detect``: boxes as json, a picture from above, folders that are gone on with, refusals."""

import json
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from linzoo import cli
from linzoo.pointcloud import Detections, Labels, create_detector
from linzoo.pointcloud.data.synthetic import SyntheticScenes
from linzoo.tools import detect
from linzoo.tools.lidar.pictures import COLOURS, bird_eye

from .lidar_runs import one_thread, refused, small

pytestmark = pytest.mark.usefixtures(one_thread.__name__, small.__name__)
CLASSES = ("Car", "Pedestrian", "Cyclist")
AREA = (0.0, -12.8, 25.6, 12.8)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    detector = create_detector("scatterformer_tiny")
    detector.dense_head.heads_list[0].hm[-1].bias.data.fill_(-1.5)  # scores around 0.2 times the overlap's
    torch.save({"state_dict": detector.state_dict()}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.fixture
def points(tmp_path):
    """A folder of three files."""
    frames = SyntheticScenes("val", 3)
    folder = tmp_path / "points"
    folder.mkdir()
    for index in range(2):
        frames[index].points.numpy().tofile(folder / f"{index}.bin")
    np.save(folder / "2.npy", frames[2].points.numpy())
    return folder


def run(*given):
    return cli.main(["detect", *map(str, given), "--device", "cpu"])


def content(folder, name):
    return json.loads((folder / f"{name}.json").read_text(), parse_constant=pytest.fail)


def test_json_holds_what_the_detector_finds_best_first(tmp_path, weights, points, capsys):
    line = ("scatterformer_tiny", weights, points / "0.bin", "--score-thr", 0, "--out-dir", tmp_path / "out")
    assert run(*line) == 0
    detector = create_detector("scatterformer_tiny", checkpoint=weights).eval()
    (found,) = detector.detect([SyntheticScenes("val", 3)[0].points])
    stored = content(tmp_path / "out", "0.bin")
    assert len(found.boxes) > 0 and len(stored["boxes"]) == len(found.boxes)
    torch.testing.assert_close(torch.tensor(stored["boxes"]), found.boxes, rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.tensor(stored["scores"]), found.scores, rtol=0, atol=1e-4)
    assert stored["classes"] == [CLASSES[c] for c in found.classes]
    assert stored["scores"] == sorted(stored["scores"], reverse=True)
    assert (stored["file"], stored["detector"]) == (str(points / "0.bin"), "scatterformer_tiny")
    said = f"linzoo detect: {len(found.boxes)} boxes in 1 file(s): {tmp_path / 'out'}"
    assert capsys.readouterr().out.strip() == said
    image = Image.open(tmp_path / "out" / "0.bin.png")
    assert image.format == "PNG" and 600 < image.width < 1600 and 600 < image.height < 1600


def test_only_scores_from_the_threshold_on_are_kept(tmp_path, weights, points):
    kept = {}
    middle = 0.30005  # between two scores as they are written
    for threshold in (0, middle, 1):
        out = tmp_path / str(threshold)
        line = ("scatterformer_tiny", weights, points / "0.bin", "--no-pictures", "--out-dir", out)
        assert run(*line, "--score-thr", threshold) == 0
        kept[threshold] = content(out, "0.bin")["scores"]
        assert not list(out.glob("*.png"))
    assert kept[middle] == [score for score in kept[0] if score >= middle] and kept[1] == []
    assert 0 < len(kept[middle]) < len(kept[0])


def test_a_folder_is_gone_on_with(tmp_path, weights, points, capsys):
    line = ("scatterformer_tiny", weights, points, "--no-pictures", "--out-dir", tmp_path / "out")
    assert run(*line) == 0
    files = sorted(f.name for f in (tmp_path / "out").iterdir())
    assert files == ["0.bin.json", "1.bin.json", "2.npy.json"]
    whole = content(tmp_path / "out", "1.bin")
    (tmp_path / "out" / "1.bin.json").write_text('{"boxes": [')  # as an editor or a full disk leaves it
    (tmp_path / "out" / ".2.npy.json.9.tmp").write_text("half")
    capsys.readouterr()
    assert run(*line, "--resume") == 0
    assert "linzoo detect: 2 done before, 1 left" in capsys.readouterr().err
    assert content(tmp_path / "out", "1.bin") == whole
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == files
    assert run(*line, "--resume", "--score-thr", 0.9) == 0  # another threshold: other results
    assert "done before" not in capsys.readouterr().err


def test_a_broken_file_of_a_folder_is_named_and_the_others_are_done(tmp_path, weights, points, capsys):
    (points / "1.bin").write_bytes(b"123")
    bad = torch.zeros(3, 4)
    bad[1, 2] = float("nan")
    np.save(points / "3.npy", bad.numpy())
    out = tmp_path / "out"
    assert run("scatterformer_tiny", weights, points, "--no-pictures", "--out-dir", out) == 1
    said = capsys.readouterr()
    assert str(points / "1.bin") in said.err and str(points / "3.npy") in said.err
    assert "in 2 file(s)" in said.out
    assert sorted(f.name for f in out.iterdir()) == ["0.bin.json", "2.npy.json"]


def test_results_of_files_of_one_name_are_told_apart(tmp_path, weights, points):
    (tmp_path / "more").mkdir()
    other = tmp_path / "more" / "0.bin"
    other.write_bytes((points / "0.bin").read_bytes())
    out = tmp_path / "out"
    line = ("scatterformer_tiny", weights, points / "0.bin", other, points / "0.bin", "--no-pictures")
    assert run(*line, "--out-dir", out) == 0
    assert sorted(f.name for f in out.iterdir()) == ["more-0.bin.json", "points-0.bin.json"]


def test_a_recipe_and_a_runs_own_file_say_which_detector(tmp_path):
    recipe, run = tmp_path / "mine.toml", tmp_path / "args.yaml"
    recipe.write_text("detector = 'lion_retnet_tiny'\nbackbone_kwargs = { out_group = 9 }\n")
    run.write_text("detector: scatterformer_tiny\nbackbone_kwargs: {}\nlr: 0.1\n")
    assert detect.detector_of(str(recipe)) == ("lion_retnet_tiny", {"out_group": 9})
    assert detect.detector_of(str(run)) == ("scatterformer_tiny", {})
    assert detect.detector_of("lion_rwkv_once") == ("lion_rwkv_once", {})
    assert detect.detector_of("lion_mamba_small") == ("lion_mamba_small", {})


def test_the_beam_in_nuscenes_files_is_not_taken_for_the_time_lag(tmp_path):
    from linzoo.pointcloud import detector_config

    rows = np.random.default_rng(0).random((7, 5), dtype=np.float32)
    rows.tofile(tmp_path / "a.pcd.bin")
    read = detect.read_frame(tmp_path / "a.pcd.bin", detector_config("lion_retnet_nuscenes"), None)
    assert torch.equal(read[:, :4], torch.from_numpy(rows[:, :4])) and not read[:, 4].any()
    read = detect.read_frame(tmp_path / "a.pcd.bin", detector_config("lion_retnet_waymo"), None)
    assert torch.equal(read, torch.from_numpy(rows))
    read = detect.read_frame(tmp_path / "a.pcd.bin", detector_config("lion_retnet_kitti"), None)
    assert torch.equal(read, torch.from_numpy(rows[:, :4]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lion_retnet_kiti {weights} {points}", "did you mean 'lion_retnet_kitti'"),
        (
            "{points} {weights} {points}",
            "RECIPE must be a packaged recipe, a .toml file, a run's args.yaml or a",
        ),
        ("scatterformer_tiny {points} {points}", "CHECKPOINT: checkpoint must be a file, got"),
        ("scatterformer_tiny {cut} {points}", "cut.pth cannot be read: it is damaged, cut short"),
        ("nowhere.toml {weights} {points}", "nowhere.toml is not a file"),
        ("{vision} {weights} {points}", "RECIPE must be one of a LiDAR detector"),
        ("scatterformer_tiny nowhere.pth {points}", "checkpoint must be a file, got nowhere.pth"),
        ("lion_retnet_tiny {weights} {points}", "must hold the"),
        (
            "scatterformer_tiny {weights} nowhere.bin",
            "must be a file of points or a folder, nowhere.bin",
        ),
        ("scatterformer_tiny {weights} {weights}", "FILE must end in .bin, .npy, .pcd, got"),
        ("scatterformer_tiny {weights} {empty}", "FILE must be a folder that holds .bin, .npy, .pcd"),
        ("scatterformer_tiny {weights} {points} --score-thr 2", "--score-thr must lie in 0 .. 1, got 2.0"),
        ("scatterformer_tiny {weights} {points} --point-values 2", "--point-values must be at least 3"),
        ("scatterformer_tiny {weights} {points} --range 5 0 5 9", "--range must be low x, y below high x, y"),
        ("scatterformer_tiny {weights} {points} --out-dir {weights}", "--out-dir must be a folder that can"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(tmp_path, weights, points, capsys, line, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "vision.toml").write_text("lr = 1e-3\n")
    (tmp_path / "cut.pth").write_bytes(weights.read_bytes()[:5000])
    places = {
        "weights": weights,
        "points": points,
        "empty": tmp_path / "empty",
        "vision": tmp_path / "vision.toml",
        "cut": tmp_path / "cut.pth",
    }
    given = line.format(**places).split()
    output = [] if "--out-dir" in given else ["--out-dir", tmp_path / "out"]
    before = sorted(tmp_path.iterdir())
    status = run(*given, *output)
    refused(capsys, status, message, name="detect")
    assert status == 2 and sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("cut.bin", lambda p: p.write_bytes(b"12345"), "cut short"),
        ("none.bin", lambda p: p.write_bytes(b""), "empty"),
        (
            "three.npy",
            lambda p: np.save(p, np.zeros((5, 3), np.float32)),
            "must have 4 values for this",
        ),
        ("text.npy", lambda p: p.write_text("no"), "no .npy array"),
        ("nan.npy", lambda p: np.save(p, np.full((5, 4), np.nan, np.float32)), "NaN"),
        ("odd.pcd", lambda p: p.write_text("no"), "odd.pcd"),
    ],
)
def test_a_wrong_file_is_refused_by_its_name(tmp_path, weights, capsys, name, write, message):
    write(tmp_path / name)
    status = run("scatterformer_tiny", weights, tmp_path / name, "--out-dir", tmp_path / "out")
    refused(capsys, status, str(tmp_path / name), message, name="detect")
    assert status == 2 and not list((tmp_path / "out").iterdir())


def test_a_full_disk_is_told_by_the_flag_and_what_was_written_stays(
    tmp_path, weights, points, capsys, monkeypatch
):
    resource = pytest.importorskip("resource")
    out, before = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)
    line = ("scatterformer_tiny", weights, points, "--no-pictures", "--score-thr", 0, "--out-dir", out)
    write = detect.write_json

    def fill(path, content):
        if path.name.startswith("1"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        write(path, content)

    monkeypatch.setattr(detect, "write_json", fill)
    try:
        status = run(*line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    refused(capsys, status, f"--out-dir: cannot write to {out}: File too large", name="detect")
    assert [file.name for file in out.iterdir()] == ["0.bin.json"]
    monkeypatch.undo()


def test_points_of_more_values_lose_the_last_ones(tmp_path, weights, points):
    frame = SyntheticScenes("val", 3)[0].points.numpy()
    np.concatenate([frame, np.ones((len(frame), 2), np.float32)], 1).tofile(tmp_path / "six.bin")
    out = tmp_path / "out"
    line = ("scatterformer_tiny", weights, "--no-pictures", "--out-dir", out)
    assert run(*line, tmp_path / "six.bin", "--point-values", 6) == 0
    assert run(*line, points / "0.bin") == 0
    assert content(out, "six.bin")["boxes"] == content(out, "0.bin")["boxes"]


# pictures


def pixels(png):
    return np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(int)


def coloured(image, colour):
    """How many pixels have nearly a colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(image - wanted).max(-1) < 24).sum())


def test_pictures_show_boxes_in_the_colours_of_their_classes():
    frame = SyntheticScenes("val", 3)[0]
    nothing = Detections(torch.zeros(0, 7), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    car = torch.tensor([[12.0, 0.0, -0.9, 4.0, 1.8, 1.6, 0.3]])
    one = Detections(car, torch.tensor([0.7]), torch.tensor([0]))
    two = Detections(torch.cat([car, car + 5]), torch.tensor([0.7, 0.4]), torch.tensor([0, 2]))
    empty, single, both = (
        pixels(bird_eye(frame.points, found, CLASSES, area=AREA)) for found in (nothing, one, two)
    )
    assert empty.shape == single.shape == both.shape and min(empty.shape[:2]) > 600
    for image, counts in ((empty, (0, 0)), (single, (1, 0)), (both, (1, 1))):
        for index, shows in zip((0, 2), counts, strict=True):
            assert (coloured(image, COLOURS[index]) > 100) == bool(shows)
    labelled = pixels(
        bird_eye(frame.points, nothing, CLASSES, area=AREA, labels=Labels(car, torch.tensor([0])))
    )
    assert coloured(labelled, "#20242b") > coloured(empty, "#20242b") + 50


def test_each_of_nuscenes_classes_has_a_colour_of_its_own():
    from linzoo.pointcloud.metrics import NUSCENES_CLASSES

    assert len(set(COLOURS)) >= len(NUSCENES_CLASSES)


def test_the_front_of_a_box_is_seen():
    points = torch.zeros(1, 4)
    box = torch.tensor([[12.8, 0.0, 0.0, 10.0, 6.0, 2.0, 0.0]])
    ahead, behind = (
        pixels(bird_eye(points, Detections(turned, torch.ones(1), torch.zeros(1).long()), CLASSES, area=AREA))
        for turned in (box, box + torch.tensor([[0, 0, 0, 0, 0, 0, torch.pi]]))
    )
    middle = ahead.shape[1] // 2 - 30  # the scale of heights stands to the right
    for image, more, less in (
        (ahead, slice(middle, 620), slice(middle)),
        (behind, slice(middle), slice(middle, 620)),
    ):
        assert coloured(image[150:], COLOURS[0]) > 0
        assert coloured(image[150:, more], COLOURS[0]) > 1.2 * coloured(image[150:, less], COLOURS[0])
