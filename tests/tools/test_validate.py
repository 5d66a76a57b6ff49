"""``linzoo validate``: accuracies known beforehand, tables that survive a kill, refusals in one line."""

import csv
import json
import math

import pytest
import timm
import torch
from PIL import Image

import linzoo.vision  # noqa: F401  registers the models
from linzoo.cli import main
from linzoo.tools import validate as tool

COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 60), "red": (220, 30, 20)}
SMALL = {"dims": (8, 16), "depths": (1, 1), "heads": (1, 2), "mixers": "linear", "neck_dim": 16}
SMALL["layer_scale"] = (1.0, 1.0)
WORDS = [f"{key}={value!r}" if key != "mixers" else f"{key}={value}" for key, value in SMALL.items()]


def fill(folder, colours, suffix="png"):
    """A folder a class; ``colours``: class -> the colours of its pictures."""
    number = 0
    for name, pictures in colours.items():
        (folder / name).mkdir(parents=True)
        for colour in pictures:
            number += 1
            stem = f"ILSVRC2012_val_{number:08d}"
            Image.new("RGB", (20, 16), COLOURS[colour]).save(folder / name / f"{stem}.{suffix}")
    return folder


def small_model(classes=3, **kwargs):
    torch.manual_seed(0)
    return timm.create_model("ravlt_tiny", num_classes=classes, **{**SMALL, **kwargs}).eval()


def knowing_colours():
    """A model that tells the three colours apart without fault: its classifier solves for their features."""
    model = small_model()
    mean, std = (torch.tensor(model.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    pictures = [
        (torch.tensor(colour).view(3, 1, 1).expand(3, 32, 32) / 255 - mean) / std
        for colour in COLOURS.values()
    ]
    with torch.no_grad():
        features = model.forward_head(model.forward_features(torch.stack(pictures)), pre_logits=True).double()
        features = features - features.mean(0)
        model.head.weight.copy_(torch.linalg.lstsq(features, 5 * torch.eye(3).double()).solution.T)
        model.head.bias.zero_()
        centre = model.forward_head(model.forward_features(torch.stack(pictures))).mean(0)
        model.head.bias.copy_(-centre)
    return model


def always(index, classes=3):
    """A model that answers ``index`` to everything, with a uniform rest."""
    model = small_model(classes)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        model.head.bias[index] = 1e-6
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Ten pictures, of which one red one lies in the wrong folder, and weights."""
    folder = tmp_path_factory.mktemp("validate")
    fill(folder / "data", {"blue": ["blue"] * 2, "green": ["green"] * 4, "red": ["red"] * 3 + ["blue"]})
    torch.save(knowing_colours().state_dict(), folder / "knows.pth")
    torch.save(always(1).state_dict(), folder / "green.pth")
    averaged = {"state_dict": always(0).state_dict(), "state_dict_ema": always(1).state_dict()}
    torch.save(averaged, folder / "averaged.pth.tar")
    return folder


def argv(files, *more, checkpoint="knows.pth", model="ravlt_tiny"):
    weights = ["--checkpoint", str(files / checkpoint)] if checkpoint else []
    return [
        "validate", str(files / "data"), "-m", model, *weights, "--img-size", "32", "-j", "0", "-b", "4",
        "--model-kwargs", *WORDS, *more,
    ]  # fmt: skip


def result(capsys, *command):
    assert main([*command]) == 0
    return json.loads(capsys.readouterr().out.partition("--result\n")[2])


def refused(capsys, *command):
    assert main([*command]) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("linzoo validate: ")]
    return line


# known answers


def test_nine_of_ten_are_right_when_one_picture_lies_in_the_wrong_folder(capsys, files):
    row = result(capsys, *argv(files))
    assert (row["top1"], row["top1_err"], row["top5"]) == (90.0, 10.0, 100.0)
    assert (row["img_size"], row["crop_pct"], row["interpolation"]) == (32, 0.875, "bicubic")
    assert row["param_count"] == round(sum(p.numel() for p in small_model().parameters()) / 1e6, 2)


def test_accuracy_of_a_constant_answer_is_the_share_of_its_class_and_its_loss_ln_3(capsys, files):
    row = result(capsys, *argv(files, checkpoint="green.pth"))
    assert row["top1"] == 40.0
    assert row["loss"] == pytest.approx(math.log(3), abs=1e-5)


def test_topk_counts_the_k_most_likely(capsys, files, tmp_path):
    model = always(1)
    with torch.no_grad():
        model.head.bias[2] = 5e-7  # second: red
    torch.save(model.state_dict(), tmp_path / "x.pth")
    row = result(capsys, *argv(files, "--topk", "1", "2", checkpoint=tmp_path / "x.pth"))
    assert (row["top1"], row["top2"]) == (40.0, 80.0) and "top5" not in row


@pytest.mark.parametrize("more", [
    ("--no-prefetcher",), ("--channels-last",), ("--amp",), ("--model-dtype", "bfloat16"),
    ("--torchcompile", "eager"), ("-b", "64"), ("--crop-mode", "squash", "--crop-pct", "1.0"),
    ("--input-size", "3", "32", "48"), ("-j", "1"), ("--interpolation", "nearest"), ("--gp", "max"),
], ids=" ".join)  # fmt: skip
def test_the_form_of_the_run_does_not_change_the_answers(capsys, files, more):
    if more[0] == "--gp":  # another pooling is another model: only that it is used
        assert result(capsys, *argv(files, *more, checkpoint="green.pth"))["top1"] == 40.0
        return
    assert result(capsys, *argv(files, *more))["top1"] == 90.0


def test_flags_of_the_input_reach_the_transform(capsys, files):
    usual, other = (
        result(capsys, *argv(files, *more)) for more in ((), ("--mean", "0.9", "0.5", "0.0", "--std", "0.1"))
    )
    assert abs(usual["loss"] - other["loss"]) > 1e-4


def test_use_ema_takes_the_average_and_its_absence_the_weights(capsys, files):
    assert result(capsys, *argv(files, checkpoint="averaged.pth.tar"))["top1"] == 20.0
    assert result(capsys, *argv(files, "--use-ema", checkpoint="averaged.pth.tar"))["top1"] == 40.0
    assert "must have state_dict_ema or model_ema" in refused(capsys, *argv(files, "--use-ema"))


def test_test_pool_applies_above_the_models_own_size(capsys, files, tmp_path):
    words = {"dims": (8, 16), "depths": (1, 1), "heads": (1, 2)}
    torch.manual_seed(0)
    model = timm.create_model(
        "l2vit_tiny", num_classes=3, pretrained_cfg_overlay={"pool_size": (2, 2)}, **words
    )
    torch.nn.init.zeros_(model.head.weight)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    torch.save(model.state_dict(), tmp_path / "x.pth")
    command = ["validate", str(files / "data"), "-m", "l2vit_tiny", "--checkpoint", str(tmp_path / "x.pth")]
    command += [
        "--test-pool",
        "-j",
        "0",
        "-b",
        "2",
        "--model-kwargs",
        *(f"{k}={v}" for k, v in words.items()),
    ]
    above = result(capsys, *command, "--img-size", "256")
    assert (above["top1"], above["crop_pct"]) == (40.0, 1.0)
    assert result(capsys, *command, "--img-size", "224")["crop_pct"] == 0.875


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_test_pool_is_refused_where_the_classifier_sees_more_than_a_mean(capsys, files, name):
    command = ["validate", str(files / "data"), "-m", name, "--random-weights", "--test-pool", "-j", "0"]
    command += ["--num-classes", "3", "--img-size", "160"]
    capsys.readouterr()
    assert main(command) == 2
    assert "--test-pool needs a classifier on the mean of the last map" in capsys.readouterr().err


def test_an_authors_file_is_read_as_it_is(capsys, files, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("nalaformer_xt", num_classes=3)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    torch.save(model.state_dict(), tmp_path / "ours.pth")
    convert = ["convert", str(tmp_path / "ours.pth"), str(tmp_path / "theirs.pth"), "-m", "nalaformer_xt"]
    assert main([*convert, "--to", "official"]) == 0
    command = ["validate", str(files / "data"), "-m", "nalaformer_xt", "--checkpoint"]
    row = result(capsys, *command, str(tmp_path / "theirs.pth"), "--img-size", "64", "-j", "0")
    assert row["top1"] == 40.0


def test_timms_own_models_are_validated_too(capsys, files):
    command = ["validate", str(files / "data"), "-m", "test_resnet", "--random-weights", "-j", "0"]
    row = result(capsys, *command, "--num-classes", "3", "--img-size", "64")
    assert row["top5"] == 100.0 and row["img_size"] == 64


def test_the_built_in_digits_are_a_data_set(capsys):
    command = ["validate", "--dataset", "digits", "-m", "ravlt_tiny", "--random-weights", "--in-chans", "1"]
    command += ["--num-classes", "10", "--img-size", "16", "-j", "0", "--model-kwargs", *WORDS]
    row = result(capsys, *command)
    assert row["top1"] < 40 and row["loss"] == pytest.approx(math.log(10), rel=0.1)


# labels


def test_a_class_map_gives_folders_their_numbers(capsys, files, tmp_path):
    (tmp_path / "map.txt").write_text("red\nblue\ngreen\n")
    row = result(capsys, *argv(files, "--class-map", str(tmp_path / "map.txt"), checkpoint="green.pth"))
    assert row["top1"] == 20.0  # answer 1 is blue now


def test_valid_labels_choose_the_logits_that_count(capsys, files, tmp_path):
    model = always(4, classes=6)
    with torch.no_grad():
        model.head.bias[3] = 1.0  # most likely of all, but not among the valid
    torch.save(model.state_dict(), tmp_path / "six.pth")
    (tmp_path / "valid.txt").write_text("0\n4\n5\n")  # blue, green, red
    command = argv(files, "--valid-labels", str(tmp_path / "valid.txt"), checkpoint=tmp_path / "six.pth")
    assert result(capsys, *command)["top1"] == 40.0


def test_real_labels_count_pictures_that_have_any_and_all_their_labels(capsys, files, tmp_path):
    """Pictures 1, 2 blue; 3 to 6 green; 7 to 10 red. The model says green to all."""
    data = fill(tmp_path / "data", {"blue": ["blue"] * 2, "green": ["green"] * 4, "red": ["red"] * 4}, "JPEG")
    labels = [[1, 0], [0], [1], [1], [], [1], [2], [2], [2], [2]]  # the fifth has none: not counted
    (tmp_path / "real.json").write_text(json.dumps(labels))
    command = argv(
        files, "--topk", "1", "3", "--real-labels", str(tmp_path / "real.json"), checkpoint="green.pth"
    )
    command[1] = str(data)
    assert result(capsys, *command)["top1"] == pytest.approx(100 * 4 / 9, abs=1e-3)

    (tmp_path / "real.json").write_text("[[1]]")
    assert "must have a list for each of the 10 pictures" in refused(capsys, *command)
    command[command.index(str(tmp_path / "real.json"))] = "timm"
    assert "timm must have a list for each of the 10 pictures" in refused(capsys, *command)


# several models, and the table


def rows(path):
    return list(csv.DictReader(path.open()))


def test_the_table_has_timms_columns_and_a_row_a_model(capsys, files, tmp_path):
    listed = tmp_path / "models.txt"
    listed.write_text(f"ravlt_tiny {files / 'knows.pth'}  # knows\n\nravlt_tiny {files / 'green.pth'}\n")
    table = tmp_path / "out.csv"
    command = argv(files, "--results-file", str(table), checkpoint=None, model=str(listed))
    assert main(command) == 0
    assert [row["top1"] for row in rows(table)] == ["90.0", "40.0"]
    timms = ["model", "top1", "top1_err", "top5", "top5_err", "param_count", "img_size", "crop_pct"]
    assert list(rows(table)[0]) == [*timms, "interpolation", "checkpoint", "loss", "samples_per_sec"]
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_folder_of_checkpoints_is_gone_through_in_their_order(capsys, files, tmp_path):
    for number, index in ((10, 0), (9, 1)):
        torch.save({"state_dict": always(index).state_dict()}, tmp_path / f"checkpoint-{number}.pth.tar")
    table = tmp_path / "out.json"
    command = argv(files, "--results-file", str(table), "--results-format", "json", checkpoint=tmp_path)
    assert main(command) == 0
    found = json.loads(table.read_text())
    assert [row["top1"] for row in found] == [40.0, 20.0]
    assert [row["checkpoint"][-9:] for row in found] == ["9.pth.tar", "0.pth.tar"]


def test_a_wildcard_takes_every_model_that_fits(files, tmp_path):
    table = tmp_path / "out.csv"
    command = argv(
        files, "--random-weights", "--num-classes", "3", "--results-file", str(table), checkpoint=None,
        model="[r]avlt_[ts]*",
    )  # fmt: skip
    assert main(command) == 0
    assert [row["model"] for row in rows(table)] == ["ravlt_small", "ravlt_tiny"]


def test_a_wildcard_takes_each_models_file_from_a_folder(files, tmp_path):
    from linzoo.tools.validation.jobs import Job, with_files

    for name in ("ravlt_tiny.pth", "ravlt_small.safetensors", "mala_tiny.pth.tar"):
        (tmp_path / name).touch()
    names = ["ravlt_small", "ravlt_tiny", "mala_tiny"]
    expected = ["ravlt_small.safetensors", "ravlt_tiny.pth", "mala_tiny.pth.tar"]
    jobs = with_files(names, tmp_path)
    assert jobs == [Job(name, tmp_path / file) for name, file in zip(names, expected, strict=True)]
    with pytest.raises(FileNotFoundError, match="must have a file called mala_base for mala_base"):
        with_files([*names, "mala_base"], tmp_path)


def test_an_interrupted_run_keeps_its_rows_and_goes_on_with_the_rest(files, tmp_path, monkeypatch):
    listed, table = tmp_path / "models.txt", tmp_path / "out.csv"
    listed.write_text(f"ravlt_tiny {files / 'knows.pth'}\nravlt_tiny {files / 'green.pth'}\n")
    command = argv(files, "--results-file", str(table), checkpoint=None, model=str(listed))
    real, called = tool.validate, []

    def stopping(job, args):
        called.append(job.checkpoint.name)
        if len(called) == 2:
            raise KeyboardInterrupt
        return real(job, args)

    monkeypatch.setattr(tool, "validate", stopping)
    assert main(command) == 130
    assert [row["top1"] for row in rows(table)] == ["90.0"]
    assert main([*command, "--resume"]) == 0
    assert called == ["knows.pth", "green.pth", "green.pth"]
    assert [row["top1"] for row in rows(table)] == ["90.0", "40.0"]


def test_a_model_that_fails_does_not_take_the_others_with_it(capsys, files, tmp_path):
    torch.save(small_model(dims=(8, 24), heads=(1, 3)).state_dict(), tmp_path / "other.pth")
    listed, table = tmp_path / "models.txt", tmp_path / "out.csv"
    listed.write_text(f"ravlt_tiny {tmp_path / 'other.pth'}\nravlt_tiny {files / 'green.pth'}\n")
    assert main(argv(files, "--results-file", str(table), checkpoint=None, model=str(listed))) == 1
    assert [row["top1"] for row in rows(table)] == ["40.0"]
    assert "another size?" in capsys.readouterr().err


def test_memory_that_runs_out_halves_the_batch_when_asked(files, capsys, monkeypatch):
    from linzoo.tools.validation import measure

    sizes, real = [], measure.check_batch

    def full(logits, target, before):
        sizes.append(len(target))
        if len(target) > 2:
            raise torch.OutOfMemoryError("full")
        real(logits, target, before)

    monkeypatch.setattr(measure, "check_batch", full)
    assert result(capsys, *argv(files, "--retry", "-b", "8"))["top1"] == 90.0
    assert sizes == [8, 4, 2, 2, 2, 2, 2]


# pictures


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
    (("--real-labels", "timm"), "--topk must be at most the model's 3 classes, got 5"),
    (("--in-chans", "1"), "--in-chans must have the model's 3 channels, got 1"),
], ids=lambda value: value[0].strip("-") if isinstance(value, tuple) else "")  # fmt: skip
def test_what_cannot_be_served_is_refused_in_one_line(capsys, files, change, words):
    assert words in refused(capsys, *argv(files, *change))


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
    assert rows(table) == []
