"""``linzoo train`` in one process: what it writes, takes up, fine-tunes; every form of training."""

import sys

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from linzoo.cli import main

from .train_runs import (
    DIGITS,
    PYRAMID,
    SMALL,
    VIT,
    digits,
    last,
    make_pictures,
    one_thread,
    rows,
    run,
    same_tensors,
    words,
)

pytestmark = pytest.mark.usefixtures(one_thread.__name__)


def test_a_run_writes_curves_summary_flags_and_checkpoints(tmp_path, capsys):
    assert (
        digits(
            tmp_path,
            "--epochs",
            "3",
            "--warmup-epochs",
            "0",
            "--checkpoint-hist",
            "2",
            "--model-ema",
            "--lr",
            "5e-3",
        )
        == 0
    )
    folder = tmp_path / "run"
    summary = rows(folder / "summary.csv")
    assert [row["epoch"] for row in summary] == ["0", "1", "2"]
    assert float(summary[2]["train_loss"]) < float(summary[0]["train_loss"])
    assert {"eval_top1", "eval_top5", "eval_loss", "eval_model_top1", "lr"} <= summary[0].keys()
    assert yaml.safe_load((folder / "args.yaml").read_text())["model_kwargs"]["dims"] == [16, 32]
    names = {file.name for file in folder.iterdir()}
    assert {"curve.png", "curve.dark.png", "steps.csv", "last.pth.tar", "model_best.pth.tar"} <= names
    assert sum(name.startswith("checkpoint-") for name in names) == 2
    errors = capsys.readouterr().err
    assert "Train: 0 [  11/11 (100%)]  Loss: " in errors and "Test (EMA): [360 pictures]" in errors
    state = last(folder)
    assert state["epoch"] == 2 and state["version"] == 2 and state["arch"] == "ravlt_tiny"
    assert {"state_dict", "state_dict_ema", "optimizer", "scheduler", "args", "metric"} <= state.keys()


def test_timms_reader_takes_the_checkpoint(tmp_path):
    model = ["--model", "resnet10t"]
    assert digits(tmp_path, "--epochs", "1", "--max-steps", "2", model=model) == 0
    copy = timm.create_model("resnet10t", num_classes=10, in_chans=1)
    timm.models.load_checkpoint(copy, str(tmp_path / "run" / "last.pth.tar"))
    assert same_tensors(copy.state_dict(), last(tmp_path / "run")["state_dict"])
    assert timm.models.resume_checkpoint(copy, str(tmp_path / "run" / "last.pth.tar")) == 0


def test_predict_reads_the_checkpoint(tmp_path, capsys):
    picture = tmp_path / "picture.png"
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(picture)
    model = ["--model", "ravlt_tiny"]
    words = ["--max-steps", "1", "-b", "4", "--in-chans", "3"]
    assert digits(tmp_path, *words, model=model) == 0
    words = ["predict", str(picture), "-m", "ravlt_tiny", "--img-size", "32", "--output-type", "csv"]
    assert main([*words, "--checkpoint", str(tmp_path / "run" / "last.pth.tar")]) == 0
    assert capsys.readouterr().out.count("picture.png") == 5


def test_predict_takes_model_size_and_channels_from_the_run(tmp_path, capsys):
    """The recipe's digits: one channel, a small model, 32 pixels; no flag repeats any of it."""
    assert digits(tmp_path, "--max-steps", "1", "-b", "4") == 0
    picture = tmp_path / "picture.png"
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(picture)
    words = ["predict", str(picture), "-m", "ravlt_tiny", "--output-type", "csv"]
    assert main([*words, "--checkpoint", str(tmp_path / "run" / "last.pth.tar")]) == 0
    assert capsys.readouterr().out.count("picture.png") == 5


REST = words(
    "--epochs 3 --warmup-epochs 1 --log-interval 1 --mixup 0.8 --cutmix 1 -b 478 --reprob 0.5 --mean "
    "0.3 --aa rand-m9-mstd0.5-inc1 --drop-path 0.2 --model-ema --sched-on-updates"
)


@pytest.mark.parametrize("prefetcher", ["prefetched", "on the CPU"])
def test_a_run_taken_up_within_an_epoch_with_other_workers_is_the_same_run(tmp_path, prefetcher):
    extra = REST if prefetcher == "prefetched" else [*REST, "--no-prefetcher"]
    assert digits(tmp_path, *extra, "--max-steps", "5", name="whole") == 0
    assert digits(tmp_path, *extra, "--max-steps", "2", name="parts") == 0
    assert last(tmp_path / "parts")["progress"]["step"] == 2
    assert digits(tmp_path, *extra, "--max-steps", "4", "--resume", "auto", "-j", "2", name="parts") == 0
    assert digits(tmp_path, *extra, "--max-steps", "5", "--resume", "auto", name="parts") == 0
    for name in ("steps.csv", "summary.csv"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "parts" / name).read_text()
    whole, parts = last(tmp_path / "whole"), last(tmp_path / "parts")
    assert same_tensors(whole["state_dict"], parts["state_dict"])
    assert same_tensors(whole["state_dict_ema"], parts["state_dict_ema"])


def test_accumulated_steps_equal_one_step_of_the_joined_batch(tmp_path):
    words = ["--no-aug", "--opt", "sgd", "--lr", "0.1", "--log-interval", "1", "--sched", "none"]
    assert digits(tmp_path, *words, "--max-steps", "2", model=VIT, name="joined") == 0
    words += ["-b", "32", "--grad-accum-steps", "4", "--max-steps", "8"]
    assert digits(tmp_path, *words, model=VIT, name="accumulated") == 0
    joined, accumulated = last(tmp_path / "joined"), last(tmp_path / "accumulated")
    assert accumulated["progress"]["update"] == joined["progress"]["update"] == 2
    for key, value in joined["state_dict"].items():
        torch.testing.assert_close(accumulated["state_dict"][key], value, rtol=1e-5, atol=1e-6)


EASY = words("--scale 0.8 1 --ratio 1 1 --hflip 0 --color-jitter 0 --mean 0.3 --std 0.4 --lr 5e-3")


@pytest.mark.parametrize(
    "words",
    [
        ["--amp", "--amp-dtype", "bfloat16"],
        ["--amp", "--amp-dtype", "float16"],
        ["--model-dtype", "bfloat16"],
        ["--channels-last", "--grad-checkpointing"],
        ["--clip-grad", "1", "--clip-mode", "agc"],
        ["--layer-decay", "0.7"],
        ["--aug-repeats", "3"],
        ["--bce-loss", "--bce-target-thresh", "0.2", "--smoothing", "0.1"],
        ["--jsd-loss", "--aug-splits", "2", "--resplit", "--reprob", "0.3", "--aa", "augmix-m3-w2"],
        ["--mixup", "0.2", "--mixup-mode", "elem", "--no-prefetcher"],
        ["--sched", "plateau"],
        ["--sched", "step", "--warmup-prefix", "--cooldown-epochs", "1"],
        ["--eval-metric", "loss", "--val-split", ""],
        ["--in-chans", "3", "--opt", "lamb"],
        ["--torchcompile", "eager"],
    ],
    ids=lambda words: "".join(words).lstrip("-"),
)
def test_every_form_of_training_lowers_the_loss_and_can_be_taken_up(tmp_path, words):
    shared = [*EASY, "--log-interval", "1", "--sched-on-updates", "--warmup-epochs", "0", "-b", "32"]
    if "plateau" in words:
        shared.remove("--sched-on-updates")
    assert digits(tmp_path, *shared, *words, "--max-steps", "3") == 0
    assert digits(tmp_path, *shared, *words, "--max-steps", "20", "--resume", "auto") == 0
    losses = [float(row["loss"]) for row in rows(tmp_path / "run" / "steps.csv")]
    assert len(losses) == 20 and np.mean(losses[-5:]) < 0.985 * np.mean(losses[:5])


def test_layer_decay_gives_early_layers_smaller_rates(tmp_path):
    assert digits(tmp_path, "--layer-decay", "0.5", "--max-steps", "1", "--sched", "constant") == 0
    rates = {group["lr"] for group in last(tmp_path / "run")["optimizer"]["param_groups"]}
    assert len(rates) > 2 and max(rates) / min(rates) >= 4


def test_rates_follow_the_pictures_an_update(tmp_path):
    words = [
        "--lr-base",
        "5e-4",
        "--lr-base-size",
        "512",
        "--lr-base-scale",
        "linear",
        "--warmup-lr-base",
        "1e-6",
    ]
    words += ["--min-lr-base", "1e-5", "--grad-accum-steps", "2", "--model-ema", "--model-ema-decay", "0.9"]
    rest = [word for word in SMALL if word not in ("--lr", "2e-3")]
    flags = [*words, "--model-ema-base-size", "512", "--max-steps", "2"]
    assert run(tmp_path, *DIGITS, *rest, *PYRAMID, *flags) == 0
    args = last(tmp_path / "run")["args"]  # 128 pictures, two steps an update: half of 512
    found = [args[name] for name in ("lr", "warmup_lr", "min_lr", "model_ema_decay")]
    assert found == pytest.approx([2.5e-4, 5e-7, 5e-6, 0.9**0.5])


def test_fine_tuning_with_another_number_of_classes_and_size_keeps_the_body(tmp_path):
    assert digits(tmp_path, "--max-steps", "2", model=VIT, name="first") == 0
    data = make_pictures(tmp_path / "data", suffix=".jpg")
    words = [
        *SMALL,
        *VIT[:-1],
        "-b",
        "4",
        "--img-size",
        "32",
        "--in-chans",
        "1",
        "--lr",
        "0",
        "--sched",
        "none",
    ]
    words += ["--max-steps", "1", "--initial-checkpoint", str(tmp_path / "first" / "last.pth.tar")]
    assert run(tmp_path, str(data), *words, name="second") == 0
    before, after = (last(tmp_path / name)["state_dict"] for name in ("first", "second"))
    assert after["head.weight"].shape == (2, 24) and before["head.weight"].shape == (10, 24)
    assert before["pos_embed"].shape[1] == 5 and after["pos_embed"].shape[1] == 17
    assert torch.equal(before["blocks.0.attn.qkv.weight"], after["blocks.0.attn.qkv.weight"])


def test_a_pyramid_is_fine_tuned_at_a_higher_resolution(tmp_path):
    assert digits(tmp_path, "--max-steps", "2", name="first") == 0
    start = str(tmp_path / "first" / "last.pth.tar")
    words = [
        "--initial-checkpoint",
        start,
        "--img-size",
        "24",
        "--max-steps",
        "1",
        "--lr",
        "0",
        "--sched",
        "none",
    ]
    assert digits(tmp_path, *words, name="second") == 0
    before, after = (last(tmp_path / name)["state_dict"] for name in ("first", "second"))
    assert torch.equal(before["head.weight"], after["head.weight"])


def test_weights_without_the_optimizer_can_be_taken_up_under_other_flags(tmp_path):
    assert digits(tmp_path, "--max-steps", "1") == 0
    words = [
        "--resume",
        "auto",
        "--no-resume-opt",
        "--opt",
        "sgd",
        "--lr",
        "0",
        "--sched",
        "none",
        "--max-steps",
        "2",
    ]
    before = last(tmp_path / "run")["state_dict"]["head.weight"]
    assert digits(tmp_path, *words) == 0
    assert torch.equal(before, last(tmp_path / "run")["state_dict"]["head.weight"])


def test_a_recipe_gives_way_to_flags(tmp_path):
    recipe = tmp_path / "digits.toml"
    recipe.write_text('dataset = "digits"\nin_chans = 1\nlr = 0.5\nmax_steps = 1\nmodel = "resnet10t"\n')
    words = [word for word in SMALL if word not in ("--lr", "2e-3")]
    assert run(tmp_path, *words, "-c", str(recipe), "--lr", "0.25") == 0
    args = last(tmp_path / "run")["args"]
    assert (args["lr"], args["max_steps"], args["model"]) == (0.25, 1, "resnet10t")


def test_a_terminal_gets_a_bar_and_a_file_gets_none(tmp_path, monkeypatch, capsys):
    assert digits(tmp_path, "--max-steps", "2") == 0
    assert "epoch 0:" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert digits(tmp_path, "--max-steps", "2", name="terminal") == 0
    error = capsys.readouterr().err
    assert "epoch 0:" in error and "Train: 0 [" in error


def test_the_curve_counts_whole_epochs(tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib.figure")
    from linzoo.tools.demo import pictures
    from linzoo.tools.training.curve import draw_curve

    axes = matplotlib.Figure().add_subplot()
    monkeypatch.setattr(pictures, "chart", lambda path, draw, *_: draw(axes, pictures.COLOURS))
    history = [{"epoch": i, "train_loss": 2.0 - i, "eval_top1": 50.0 + i} for i in range(2)]
    draw_curve(tmp_path / "curve.png", history, "title")
    assert list(axes.lines[0].get_xdata()) == [1, 2]
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_reports_go_to_tensorboard(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert digits(tmp_path, "--max-steps", "1", "--log-tensorboard") == 0
    assert digits(tmp_path, "--max-steps", "2", "--log-tensorboard", "--resume", "auto") == 0
    found = events.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert {"train/loss", "lr"} <= set(found.Tags()["scalars"])
    assert [event.step for event in found.Scalars("train/loss")] == [1, 2]  # none lost by the resumption
