"""The flags of ``linzoo train``: timm's names, and recipes that give way to them."""

import argparse

import pytest

from linzoo import cli
from linzoo.tools.training.arguments import add_groups


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    add_groups(parser)
    return parser


def test_an_empty_command_line_has_timms_defaults(parser):
    args = parser.parse_args([])
    assert (args.batch_size, args.opt, args.momentum, args.weight_decay) == (128, "sgd", 0.9, 2e-5)
    assert (args.sched, args.epochs, args.warmup_epochs, args.lr_base, args.lr_base_size) == (
        "cosine", 300, 5, 0.1, 256
    )  # fmt: skip
    assert (args.hflip, args.color_jitter, args.smoothing, args.train_interpolation) == (
        0.5,
        0.4,
        0.1,
        "random",
    )
    assert (args.seed, args.workers, args.checkpoint_hist, args.eval_metric) == (42, 4, 10, "top1")
    assert args.device == "auto"


def test_model_arguments_are_python_literals(parser):
    args = parser.parse_args(["--model-kwargs", "dims=(16,32)", "depth=2", "mixers=rala", "flag=True"])
    assert args.model_kwargs == {"dims": (16, 32), "depth": 2, "mixers": "rala", "flag": True}


def test_a_model_argument_without_a_value_is_refused(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args(["--model-kwargs", "dims"])
    assert "must be KEY=VALUE, got 'dims'" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_flag_wins_over_the_recipe_wherever_it_stands(place, monkeypatch):
    from linzoo.tools import train

    monkeypatch.setattr(
        train, "defaults_from", lambda words, parser: {"lr": 0.5, "model_ema": True, "epochs": 3}
    )
    flags, recipe = ["--lr", "0.25", "--no-model-ema"], ["-c", "some.toml"]
    words = ["train", *(flags + recipe if place == "before" else recipe + flags)]
    args = cli.build_parser("train", words).parse_args(words)
    assert (args.lr, args.model_ema, args.epochs) == (0.25, False, 3)


def test_the_recipe_is_read_from_the_command_line(tmp_path, monkeypatch):
    from linzoo.tools import recipe, train

    seen = []
    monkeypatch.setattr(recipe, "read_recipe", lambda name, parser: seen.append(name) or {"lr": 0.5})
    assert train.defaults_from(["train", "--config=a.toml"], argparse.ArgumentParser()) == {"lr": 0.5}
    assert train.defaults_from(["train", "-c", "b.toml", "-b", "8"], argparse.ArgumentParser()) == {"lr": 0.5}
    assert train.defaults_from(["train", "-b", "8"], argparse.ArgumentParser()) == {}
    assert seen == ["a.toml", "b.toml"]
