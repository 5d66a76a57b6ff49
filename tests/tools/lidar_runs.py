"""What the tests of LiDAR detectors' commands share: short flags, thin scenes, what a run left behind."""

import csv
import sys
from functools import partial

import pytest
import torch

from linzoo import cli
from linzoo.pointcloud import VoxelGrid, detectors
from linzoo.pointcloud.data import synthetic
from linzoo.pointcloud.data.raycast import Sensor

from .distill_runs import one_thread

THIN = Sensor(beams=24, azimuths=96)
COARSE = VoxelGrid(point_range=(0.0, -12.8, -2.0, 25.6, 12.8, 2.0), voxel_size=(1.28, 1.28, 0.125))
OPTIONS = synthetic.SceneOptions
__all__ = ["one_thread"]


def words(text):
    return text.split()


SCATTERFORMER = words("--detector scatterformer_tiny")
LION = words("--detector lion_retnet_tiny")
FRAMES = words("--dataset synthetic --scenes 4 --val-scenes 2 -b 1 --device cpu --log-interval 1")
SMALL = [*SCATTERFORMER, *FRAMES, *words("--epochs 1 --no-validation")]


def tiny():
    """Detectors on 20 x 20 x 32 cells: a fifth of a second an update."""
    found = {}
    for name, words in (
        ("scatterformer", {"layers": 1}),
        ("lion_retnet", {"groups": (64, 64, 32, 32), "out_group": 32}),
    ):
        config = detectors.detector_config(f"{name}_small")
        found[f"{name}_tiny"] = config.with_backbone(grid=COARSE, **words)
    return found


def use_small_things(put=setattr):
    """Synthetic scenes of some two thousand points and tiny detectors, from now on."""
    put(synthetic, "SceneOptions", partial(OPTIONS, sensor=THIN))
    put(detectors, "DETECTORS", {**detectors.DETECTORS, **tiny()})


@pytest.fixture
def small(monkeypatch):
    use_small_things(monkeypatch.setattr)


def small_main(argv):
    """``linzoo`` in a process of its own."""
    use_small_things()
    sys.exit(cli.main(argv))


def command(tmp_path, *words, name="run"):
    """The exit status of ``linzoo train``, in this process."""
    return cli.main(["train", *words, "--output", str(tmp_path), "--experiment", name])


def start(tmp_path, *words, name="run"):
    """A finished run, from Python."""
    from linzoo.tools.lidar.session import train_detector
    from linzoo.tools.train_lidar import parse

    return train_detector(parse([*words, "--output", str(tmp_path), "--experiment", name]))


def rows(folder):
    with open(folder / "steps.csv", newline="") as file:
        return list(csv.DictReader(file))


def column(folder, name):
    return [float(row[name]) for row in rows(folder)]


def last(folder):
    return torch.load(folder / "last.pth.tar", weights_only=True)


def differing(one, other):
    """Names of tensors that are not the same, bit for bit."""
    assert one.keys() == other.keys()
    return [name for name, value in one.items() if not torch.equal(value, other[name])]


def refused(capsys, status, *parts, name="train"):
    assert status in (1, 2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith(f"linzoo {name}: "), lines
    for part in parts:
        assert part in lines[-1]


if __name__ == "__main__":
    small_main(sys.argv[1:])
