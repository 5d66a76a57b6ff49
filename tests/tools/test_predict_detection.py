"""``linzoo predict-detection``: what is drawn and written, on pictures of every kind; refusals."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet")

from pycocotools import mask as coco_mask

from linzoo.cli import main

from ..vision.detection import coco_set, small


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return coco_set.write(tmp_path_factory.mktemp("coco"), count=2)


@pytest.fixture(scope="module", params=["retinanet", "mask-rcnn"])
def detector(request, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector")
    config = small.write_config(folder / "predicting.py", data, request.param)
    meta = {"dataset_meta": {"classes": coco_set.CLASSES}}
    return request.param, config, small.write_weights(folder / "weights.pth", config, meta=meta)


def predict(capsys, inputs, detector, *argv) -> tuple[int, str, str]:
    code = main(["predict-detection", *map(str, (inputs, *detector[1:], *argv))])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_folder_is_drawn_and_written_as_json(detector, data, tmp_path, capsys):
    options = ("--score-thr", 0.0, "--out-dir", tmp_path)
    code, printed, _ = predict(capsys, data.images, detector, *options)
    assert code == 0
    names = sorted(path.name for path in data.images.iterdir())
    assert [line.split("/")[-1].split(":")[0] for line in printed.splitlines() if "images/" in line] == names
    for name in names:
        found = json.loads((tmp_path / "preds" / f"{name}.json").read_text())
        count = len(found["scores"])
        assert count > 0 and found["size"] == [96, 96]
        assert found["scores"] == sorted(found["scores"], reverse=True)
        assert [coco_set.CLASSES[label] for label in found["labels"]] == found["classes"]
        boxes = np.array(found["bboxes"])
        assert boxes.shape == (count, 4) and boxes.min() >= 0 and boxes.max() <= 96
        if detector[0] == "mask-rcnn":
            masks = [coco_mask.decode(code) for code in found["masks"]]
            assert len(masks) == count and masks[0].shape == (96, 96)
        drawn, original = (
            np.asarray(Image.open(tmp_path / "vis" / f"{name}.png")),
            Image.open(data.images / name),
        )
        assert drawn.shape == (96, 96, 3)
        assert not np.array_equal(drawn, np.asarray(original))


def test_the_threshold_leaves_out_what_is_below_it(detector, data, tmp_path, capsys):
    picture = data.images / "001.png"
    predict(capsys, picture, detector, "--score-thr", 0.0, "--out-dir", tmp_path / "all", "--no-save-vis")
    scores = json.loads((tmp_path / "all" / "preds" / "001.png.json").read_text())["scores"]
    middle = (min(scores) + max(scores)) / 2
    predict(capsys, picture, detector, "--score-thr", middle, "--out-dir", tmp_path / "some", "--no-save-vis")
    kept = json.loads((tmp_path / "some" / "preds" / "001.png.json").read_text())["scores"]
    assert kept == [score for score in scores if score >= middle]
    code, printed, _ = predict(
        capsys, picture, detector, "--score-thr", 1.0, "--out-dir", tmp_path / "none", "--no-save-pred"
    )
    assert code == 0 and "001.png: nothing" in printed
    assert not (tmp_path / "all" / "vis").exists() and not (tmp_path / "none" / "preds").exists()
    drawn = np.asarray(Image.open(tmp_path / "none" / "vis" / "001.png.png"))
    assert np.array_equal(drawn, np.asarray(Image.open(picture)))


@pytest.mark.parametrize(
    ("mode", "size"),
    [("RGB", (1, 1)), ("RGBA", (40, 30)), ("L", (30, 40)), ("P", (33, 47)), ("RGB", (200, 3))],
    ids=["one-pixel", "four-channels", "grey", "palette", "thin"],
)
def test_a_picture_of_any_kind_is_read(mode, size, data, detector, tmp_path, capsys):
    Image.new(mode, size, 90).save(tmp_path / "odd.png")
    code, _, error = predict(
        capsys, tmp_path / "odd.png", detector, "--score-thr", 0.0, "--out-dir", tmp_path
    )
    assert code == 0, error
    assert Image.open(tmp_path / "vis" / "odd.png.png").size == size


def test_a_truncated_picture_is_named(data, detector, tmp_path, capsys):
    whole = (data.images / "001.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    code, _, error = predict(capsys, tmp_path / "half.png", detector, "--out-dir", tmp_path / "out")
    assert code == 2
    assert f"cannot read {tmp_path / 'half.png'}: damaged or truncated" in error.splitlines()[-1]


def test_the_authors_file_names_no_classes_and_still_predicts(detector, data, tmp_path, capsys, recwarn):
    content = torch.load(detector[2], weights_only=True)
    torch.save(content["state_dict"], tmp_path / "bare.pth")
    code, _, error = predict(
        capsys, data.images / "001.png", (*detector[:2], tmp_path / "bare.pth"), "--out-dir", tmp_path,
        "--score-thr", 0.0, "--no-save-vis",
    )  # fmt: skip
    assert code == 0, error
    assert set(json.loads((tmp_path / "preds" / "001.png.json").read_text())["classes"]) <= {"cat", "cup"}


def test_a_wrong_request_is_named_before_anything_is_written(detector, data, tmp_path, capsys):
    out = ("--out-dir", tmp_path / "out")
    picture = data.images / "001.png"
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    for inputs, argv, message in (
        (tmp_path / "nowhere.png", (), "nowhere.png is not there"),
        (tmp_path / "empty", (), "FOLDER must hold pictures"),
        (tmp_path / "text.png", (), "is not a picture that Pillow can read"),
        (picture, ("--score-thr", 1.5), "--score-thr must be between 0 and 1, got 1.5"),
        (picture, ("--device", "cuda:99"), "--device must be a device of this machine"),
        (picture, ("--cfg-options", "model.backbone.dims=[16,32,48,96]"), "does not fit the model"),
    ):
        code, _, error = predict(capsys, inputs, detector, *out, *argv)
        assert code == 2
        assert message in error and len(error.splitlines()) == 1
    code, _, error = predict(capsys, picture, detector, "--out-dir", tmp_path / "text.png" / "out")
    assert code == 2 and "--out-dir must be a folder that can be written to" in error
    assert not (tmp_path / "out").exists()


def test_a_file_with_the_authors_names_finds_the_same(detector, data, tmp_path, capsys):
    from linzoo.vision import ravlt

    content = torch.load(detector[2], weights_only=True)
    backbone = {k: v for k, v in content["state_dict"].items() if k.startswith("backbone.")}
    ours = {k.removeprefix("backbone.").removeprefix("body.model."): v for k, v in backbone.items()}
    for i in range(4):  # away from 1, so that a norm that is not read is seen
        ours[f"out_norms.{i}.weight"].uniform_(0.5, 3.0)
    theirs = {f"backbone.{k}": v for k, v in ravlt.to_official(ours, (16,) * 4).items()}
    others = {k: v for k, v in content["state_dict"].items() if k not in backbone}
    assert any(k.startswith("backbone.extra_norms.3.norm.") for k in theirs)
    torch.save(content, tmp_path / "ours.pth")
    torch.save({"meta": content["meta"], "state_dict": {**theirs, **others}}, tmp_path / "theirs.pth")
    found = []
    for name in ("ours", "theirs"):
        files = (*detector[:2], tmp_path / f"{name}.pth")
        options = ("--score-thr", 0.0, "--no-save-vis", "--out-dir", tmp_path / name)
        code, _, error = predict(capsys, data.images / "001.png", files, *options)
        assert code == 0, error
        found.append(json.loads((tmp_path / name / "preds" / "001.png.json").read_text()))
    assert found[0] == found[1]
