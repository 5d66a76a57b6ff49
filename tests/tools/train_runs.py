"""What the tests of ``linzoo train`` share: short flags, tiny models, small data sets."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from linzoo.cli import main


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def words(text):
    return text.split()


PYRAMID = words(
    "--model ravlt_tiny --model-kwargs dims=(16,32) depths=(1,1) heads=(1,2) neck_dim=32 "
    "layer_scale=(1,1) mixers=rala"
)


SMALL = words("--img-size 16 -b 128 -j 0 --opt adamw --lr 2e-3 --device cpu")


DIGITS = words("--dataset digits --in-chans 1")


VIT = words(
    "--model vit_tiny_patch16_224 --model-kwargs embed_dim=24 depth=1 num_heads=2 patch_size=8 img_size=16"
)


def run(tmp_path, *words, name="run"):
    return main(["train", *words, "--output", str(tmp_path), "--experiment", name])


def digits(tmp_path, *words, model=PYRAMID, name="run"):
    return run(tmp_path, *DIGITS, *SMALL, *model, *words, name=name)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def last(folder):
    return torch.load(folder / "last.pth.tar", weights_only=True)


def same_tensors(one, two):
    assert one.keys() == two.keys()
    return all(torch.equal(one[key], two[key]) for key in one)


def make_pictures(root, classes=("cat", "dog"), each=8, splits=("train", "validation"), suffix=".png"):
    draw = np.random.default_rng(0)
    for split in splits:
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(each):
                pixels = draw.integers(0, 100, (20, 24, 3)).astype(np.uint8) + np.uint8(150 * (number % 2))
                Image.fromarray(pixels).save(root / split / name / f"{i}{suffix}")
    return root


def refused(capsys, status, *parts):
    assert status in (1, 2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("linzoo train: ")
    for part in parts:
        assert part in lines[-1]
