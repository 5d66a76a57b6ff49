"""``linzoo validate``: strange and broken pictures, and refusals in one line."""

import pytest
from PIL import Image

from linzoo.tools import validate as tool

from .known_answers import COLOURS, argv, fill, refused, result, write_pictures_and_weights


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_pictures_and_weights(tmp_path_factory.mktemp("validate"))


def test_one_pixel_four_channels_grey_and_palette_are_pictures_too(capsys, files, tmp_path):
    data = fill(tmp_path / "data", {"blue": ["blue"], "green": ["green"], "red": []})
    Image.new("RGB", (1, 1), COLOURS["red"]).save(data / "red" / "one.png")
    Image.new("RGBA", (16, 16), (*COLOURS["red"], 128)).save(data / "red" / "four.png")
    Image.new("RGB", (16, 16), COLOURS["red"]).convert("P").save(data / "red" / "palette.png")
    Image.new("L", (300, 2), 90).save(data / "blue" / "grey.png")
    command = argv(files, "--topk", "1", "3")
    command[1] = str(data)
    row = result(capsys, *command)
    assert row["top1"] >= 100 * 5 / 6 - 0.01 and row["top3"] == 100.0  # grey has no right answer


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_truncated_picture_is_named_and_nothing_is_skipped(capsys, files, tmp_path, workers):
    data = fill(tmp_path / "data", {"blue": ["blue"] * 3, "green": ["green"], "red": ["red"]}, "JPEG")
    broken = data / "blue" / "ILSVRC2012_val_00000002.JPEG"
    broken.write_bytes(broken.read_bytes()[:200])
    command = argv(files, "-j", workers)
    command[1] = str(data)
    line = refused(capsys, *command)
    assert line.startswith("linzoo validate: cannot read ") and str(broken) in line
    assert "Traceback" not in line and len(line) < 400


# refusals


def test_a_class_count_that_does_not_fit_is_refused(capsys, files, tmp_path):
    data = fill(tmp_path / "data", {"blue": ["blue"], "green": ["green"]})
    command = argv(files)
    command[1] = str(data)
    assert "must have the 3 classes of ravlt_tiny, it has 2 (blue, green" in refused(capsys, *command)


@pytest.mark.parametrize(("change", "words"), [
    (("-m", "ravlt_tiney"), "did you mean ravlt_tiny"),
    (("-m", "nomodel_*"), "--model must match a model of timm or linzoo, got 'nomodel_*'"),
    (("--checkpoint", "nowhere.pth"), "--checkpoint must be a file or a folder, nowhere.pth is not there"),
    (("-m", "ravlt_*"), "--checkpoint must be a folder for 4 models"),
    (("--num-classes", "7"), "--num-classes must be 3 as in"),
    (("-b", "0"), "--batch-size must be at least 1, got 0"),
    (("--topk", "0"), "--topk must be at least 1, got 0"),
    (("--crop-pct", "0"), "--crop-pct must be above 0"),
    (("--data-dir", "elsewhere"), "DIR and --data-dir must agree"),
    (("--input-size", "1", "32", "32"), "--input-size must have the model's 3 channels"),
    (("--mean", "0.5", "0.5"), "--mean must have 1 or 3 values"),
    (("--resume",), "--resume needs --results-file"),
    (("--device", "toaster"), "--device must be a device of this machine"),
    (("--class-map", "nowhere.txt"), "--class-map must be a file, nowhere.txt is not there"),
    (("--valid-labels", "nowhere.txt"), "--valid-labels must be a file, nowhere.txt is not there"),
    (("--real-labels", "nowhere.json", "--topk", "1"), "--real-labels must be a .json file or 'timm'"),
    (("--dataset", "kittens"), "--dataset must be"),
    (("--model-kwargs", "dims=(8,)"), "depths must have one entry a stage"),
    (("--model-kwargs", "dimms=(8,)"), "--model-kwargs must be arguments of ravlt_tiny"),
    (("--real-labels", "timm"), "--real-labels needs all classes of the model, and --topk of at most 3"),
    (("--in-chans", "1"), "--in-chans must have the model's 3 channels, got 1"),
], ids=lambda value: value[0].strip("-") if isinstance(value, tuple) else "")  # fmt: skip
def test_what_cannot_be_served_is_refused_in_one_line(capsys, files, change, words):
    assert words in refused(capsys, *argv(files, *change))


@pytest.mark.parametrize("text", ["0\n3\n", "0\n0\n", "first\n", "\n"])
def test_valid_labels_that_the_model_does_not_have_are_refused(capsys, files, tmp_path, text):
    (tmp_path / "valid.txt").write_text(text)
    line = refused(capsys, *argv(files, "--valid-labels", str(tmp_path / "valid.txt")))
    assert "must be a number from 0 to 2, each once" in line or "must name at least one class" in line


def test_a_missing_folder_is_refused_before_a_model_is_built(capsys, files, monkeypatch):
    monkeypatch.setattr(tool, "validate", lambda *_: pytest.fail("came to the model"))
    command = argv(files)
    command[1] = "nowhere"
    assert "nowhere is not there" in refused(capsys, *command)
    command[1] = str(files.parent / "empty")
    (files.parent / "empty").mkdir()
    assert "Found 0 images" in refused(capsys, *command)


def test_weights_have_to_come_from_somewhere(capsys, files):
    assert "needs weights: --checkpoint FILE" in refused(capsys, *argv(files, checkpoint=None))
    command = argv(files, "--pretrained", checkpoint=None, model="mala_tiny")
    assert "no published weights are known for mala_tiny" in refused(capsys, *command)


def test_a_table_of_something_else_is_left_as_it_is(capsys, files, tmp_path):
    table = tmp_path / "out.csv"
    table.write_text("precious,data\n1,2\n")
    assert "must have the columns model, top1" in refused(capsys, *argv(files, "--results-file", str(table)))
    assert table.read_text() == "precious,data\n1,2\n"
    folder = argv(files, "--results-file", str(tmp_path))
    assert "is a folder" in refused(capsys, *folder)


def test_logits_that_are_not_finite_are_told_and_give_no_row(capsys, files, tmp_path, monkeypatch):
    from linzoo.tools.validation import measure

    table = tmp_path / "out.csv"
    real = measure.check_batch
    monkeypatch.setattr(measure, "check_batch", lambda logits, *rest: real(logits / 0, *rest))
    line = refused(capsys, *argv(files, "--results-file", str(table)))
    assert "logits must be finite, they are NaN or Inf for 4 of 4 pictures (first: number 0)" in line
    assert table.read_text().count("\n") == 1  # the heading
