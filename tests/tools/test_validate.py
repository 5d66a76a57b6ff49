"""``linzoo validate``: accuracies that are known beforehand."""

import csv
import json
import math

import pytest
import timm
import torch

from linzoo.cli import main

from .known_answers import WORDS, always, argv, fill, refused, result, small_model, write_pictures_and_weights


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_pictures_and_weights(tmp_path_factory.mktemp("validate"))


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
    pytest.param(("--torchcompile", "eager"), marks=pytest.mark.slow), ("-b", "64"),
    ("--crop-mode", "squash", "--crop-pct", "1.0"),
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


def test_flags_of_the_input_reach_timms_loader(capsys, files, monkeypatch):
    seen, real = {}, timm.data.create_loader
    monkeypatch.setattr(
        timm.data, "create_loader", lambda *args, **words: seen.update(words) or real(*args, **words)
    )
    flags = ["--input-size", "3", "32", "48", "--crop-pct", "0.5", "--crop-mode", "squash", "-b", "3"]
    result(capsys, *argv(files, *flags, "--interpolation", "nearest", "--crop-border-pixels", "2"))
    expected = {"input_size": (3, 32, 48), "crop_pct": 0.5, "crop_mode": "squash", "interpolation": "nearest"}
    expected |= {"crop_border_pixels": 2, "batch_size": 3}
    assert {key: seen[key] for key in expected} == expected


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


def test_a_checkpoint_of_linzoo_train_is_judged_as_in_its_training(capsys, tmp_path):
    """Model, size and normalisation come from the checkpoint; flags win over it."""
    train = ["train", "--dataset", "digits", "--model", "ravlt_tiny", "--model-kwargs", *WORDS]
    train += ["--in-chans", "1", "--img-size", "16", "--mean", "0.3", "--std", "0.4", "--crop-pct", "1.0"]
    train += [
        "--opt",
        "adamw",
        "--lr",
        "3e-3",
        "--warmup-epochs",
        "0",
        "-b",
        "256",
        "-j",
        "0",
        "--epochs",
        "1",
    ]
    assert main([*train, "--output", str(tmp_path), "--experiment", "x", "--device", "cpu"]) == 0
    (trained,) = csv.DictReader((tmp_path / "x" / "summary.csv").open())
    capsys.readouterr()
    command = ["validate", "--dataset", "digits", "-m", "ravlt_tiny", "-j", "0"]
    command += ["--checkpoint", str(tmp_path / "x" / "last.pth.tar")]
    row = result(capsys, *command)
    assert row["top1"] == pytest.approx(float(trained["eval_top1"]), abs=1e-4)
    assert row["loss"] == pytest.approx(float(trained["eval_loss"]), abs=1e-4)
    assert (row["img_size"], row["crop_pct"]) == (16, 1.0)
    other = result(capsys, *command, "--img-size", "24", "--crop-pct", "0.5")
    assert (other["img_size"], other["crop_pct"]) == (24, 0.5)


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
