"""Pictures of one colour, and models whose answers to them are known beforehand: for ``linzoo validate``."""

import json

import timm
import torch
from PIL import Image

import linzoo.vision  # noqa: F401  registers the models
from linzoo.cli import main

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


def write_pictures_and_weights(folder):
    """Ten pictures, of which one red one lies in the wrong folder, and weights."""
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
