"""The LiDAR recipes say what the authors published, in flags that the command has; none is missing."""

import functools
import re

import pytest

from linzoo.pointcloud import list_detectors
from linzoo.pointcloud.lion.variants import PUBLISHED
from linzoo.tools import train_lidar
from linzoo.tools.recipe import recipe_names

from . import recipe_header

line = functools.partial(recipe_header.line, "pointcloud")
AUTHORS = sorted(name for name in recipe_names("pointcloud") if not name.startswith("street_"))
NAMES = ("epochs", "lr", "weight_decay", "pct_start", "div_factor", "clip_grad", "batch_size")
SETTINGS = {  # as published; frames are those of one of 8 processes
    "scatterformer_waymo": (24, 0.006, 0.05, 0.1, 100, 10, 4),
    "scatterformer_nuscenes": (20, 0.006, 0.03, 0.4, 10, 10, 4),
    "lion_waymo": (24, 0.003, 0.05, 0.1, 100, 10, 2),
    "lion_nuscenes": (36, 0.003, 0.05, 0.4, 10, 35, 2),
    "lion_once": (80, 0.003, 0.01, 0.4, 10, 35, 4),
    "lion_kitti": (80, 0.003, 0.01, 0.4, 10, 10, 4),
}
LAST_EPOCHS = {  # without pasted objects, without any augmentation
    "scatterformer_waymo": (4, 0),
    "scatterformer_nuscenes": (3, 0),
    "lion_waymo": (0, 1),
    "lion_nuscenes": (4, 0),
}
RESULTS = {
    "lion_mamba_kitti": "78.3 / 60.2 / 68.6",
    "lion_mlstm_kitti": "77.9 / 59.3 / 67.4",
    "lion_retnet_kitti": "77.9 / 60.2 / 69.6",
    "lion_rwkv_kitti": "78.3 / 62.2 / 71.2",
    "lion_ttt_kitti": "78.0 / 58.6 / 69.6",
    "lion_mamba_nuscenes": "72.1 / 68.0",
    "lion_retnet_nuscenes": "71.9 / 67.3",
    "lion_rwkv_nuscenes": "71.7 / 66.8",
    "lion_mamba_once": "66.6",
    "lion_retnet_once": "66.3",
    "lion_rwkv_once": "65.8",
    "lion_mamba_waymo": "75.1 / 73.2",
    "lion_mamba_waymo_large": "75.9 / 74.0",
    "lion_retnet_waymo": "74.6 / 72.7",
    "lion_rwkv_waymo": "74.7 / 72.8",
    "scatterformer_waymo": "75.7 / 73.8",
    "scatterformer_nuscenes": "68.3",
}


def run_of(name):
    """The authors' run that a recipe follows, and its data set."""
    words = name.removesuffix("_large").split("_")
    return f"{words[0]}_{words[-1]}", words[-1]


def test_every_published_detector_has_a_recipe_of_its_name():
    detectors = list_detectors()
    published = {name for name in PUBLISHED if name in detectors}  # Argoverse's head is not known
    assert set(AUTHORS) == published | {"scatterformer_nuscenes", "scatterformer_waymo"} == set(RESULTS)


@pytest.mark.parametrize("name", AUTHORS)
def test_a_recipe_amounts_to_what_the_authors_set(name):
    run, data = run_of(name)
    args = train_lidar.parse([name])
    assert args.detector == name
    assert tuple(getattr(args, setting) for setting in NAMES) == SETTINGS[run]
    assert (args.no_paste_epochs, args.no_aug_epochs) == LAST_EPOCHS.get(run, (0, 0))
    assert args.dataset == (None if data == "once" else data)
    assert args.sweeps == (10 if data == "nuscenes" else 1)
    assert args.class_balanced == (run == "scatterformer_nuscenes")
    assert args.flip == (["x"] if data == "kitti" else ["x", "y"])
    assert args.scale == ([0.9, 1.1] if data == "nuscenes" else [0.95, 1.05])
    assert args.rotate == 45 and args.translate == (0 if data == "kitti" else 0.5)
    assert args.paste and args.backbone_kwargs == {}


@pytest.mark.parametrize("name", AUTHORS)
def test_a_header_tells_command_cost_result_and_the_published_figure(name):
    command = line(name, "run")
    assert re.fullmatch(
        rf"accelerate launch --num_processes 8 -m linzoo train {name} (--dataset NAME )?--data-dir DIR",
        command,
    )
    assert line(name, "cost") == line(name, "result") == "not run"
    paper = "ECCV 2024, arXiv 2401.00912" if name.startswith("scatter") else "NeurIPS 2024, arXiv 2407.18232"
    assert RESULTS[name] in line(name, f"published ({paper})")
