"""Every vision recipe trains: a slim model takes two updates on pictures made here, stops, and goes on."""

import csv
import math

import numpy as np
import pytest
import torch
from PIL import Image

from linzoo.cli import main
from linzoo.tools.recipe import read_recipe, recipe_names

from ..sampling import sampled
from ..vision.slim import NAMES, narrow, slim_depths

EVERY = [name for name in recipe_names() if name != "digits"]
# sizes of a family share their recipe but for rates; larger data, tuning and 384 pixels are recipes apart
USUAL = [name for name in EVERY if name.endswith(("tiny", "in22k", "ft", "384"))]
SIDE = 64
OVERRIDDEN = ("batch_size", "num_classes", "pretrained", "sync_bn", "amp")  # by the flags below
# a run keeps what they are at its own batch
SCALED = ("lr", "min_lr", "warmup_lr", "model_ema_decay", "model_ema_base_size")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two classes; 256 pictures, the least of which repeated augmentation makes an epoch; 4 to validate."""
    folder = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 128), ("val", 2)):
        for label in (0, 1):
            (folder / split / f"class{label}").mkdir(parents=True)
            for i in range(count):
                pixels = np.random.RandomState(i).randint(0, 128, (12, 10, 3), np.uint8) + 127 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / f"class{label}" / f"{i}.png")
    return folder


def model_of(recipe):
    return recipe["model"].partition(".")[0]


def words(name):
    """Keyword arguments of a slim and narrow model as ``--model-kwargs`` takes them."""
    kwargs = {**narrow(name), **slim_depths(name)}
    kwargs.pop("num_classes", None)
    return [f"{key}={value if isinstance(value, str) else repr(value)}" for key, value in kwargs.items()]


def command(name, recipe, pictures, output, steps, *more):
    flags = ["train", "--config", name, "--data-dir", str(pictures), "--output", str(output)]
    flags += ["--experiment", "run", "--device", "cpu", "-j", "0", "-b", "4", "--img-size", str(SIDE)]
    flags += ["--max-steps", str(steps), "--num-classes", "2", "--no-sync-bn", "--no-amp", "--no-pretrained"]
    return [*flags, *more, "--model-kwargs", *words(model_of(recipe))]


@pytest.fixture(scope="module")
def parser():
    import argparse

    from linzoo.tools import train

    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return parser


def read_steps(run):
    return [(int(row["steps"]), float(row["loss"])) for row in csv.DictReader((run / "steps.csv").open())]


@pytest.mark.parametrize("name", sampled(EVERY, USUAL))
def test_a_slim_model_takes_two_updates_stops_and_goes_on(name, parser, pictures, tmp_path):
    recipe = read_recipe(name, parser)
    assert model_of(recipe) in NAMES
    run, updates = tmp_path / "run", recipe.get("grad_accum_steps", 1)
    assert main(command(name, recipe, pictures, tmp_path, 2 * updates)) == 0
    state = torch.load(run / "last.pth.tar", weights_only=True)
    assert state["arch"] == recipe["model"] and state["progress"]["steps"] == 2 * updates
    kept = {key: value for key, value in recipe.items() if key not in OVERRIDDEN + SCALED}
    assert {key: state["args"][key] for key in kept} == kept
    decays = {group["weight_decay"] for group in state["optimizer"]["param_groups"]}
    assert decays == {0.0, recipe["weight_decay"]}
    assert ("state_dict_ema" in state) == recipe.get("model_ema", False)
    again = read_recipe(run / "args.yaml", parser)  # a run's flags are a recipe
    assert again["model"] == recipe["model"] and again["model_ema_decay"] == state["args"]["model_ema_decay"]
    assert again["model_ema_base_size"] is None

    assert main(command(name, recipe, pictures, tmp_path, 4 * updates, "--resume", str(run))) == 0
    again = torch.load(run / "last.pth.tar", weights_only=True)
    assert again["progress"]["steps"] == 4 * updates
    assert any(not torch.equal(again["state_dict"][key], value) for key, value in state["state_dict"].items())
    steps = read_steps(run)
    assert [number for number, _ in steps] == [2 * updates, 4 * updates]
    assert all(math.isfinite(loss) for _, loss in steps)
