"""The arguments of ``linzoo train`` and ``linzoo validate`` for LiDAR detectors, by group.

A recipe's keys are the names here with underscores.
"""

import argparse

from ..runs import arguments as runs
from ..runs.arguments import add_all, add_device, key_values
from ..training.argument_kinds import Group, switch

DATASETS = ("synthetic", "kitti", "nuscenes", "waymo")


def add_detector(group: Group) -> None:
    group.add_argument("--detector", metavar="NAME", help="lion_retnet_kitti, scatterformer_waymo, ...")
    key_values(group, "backbone-kwargs", "changes to the backbone's form: padding=none, drop_path=0.1, ...")


def add_model(group: Group) -> None:
    add_detector(group)
    text = "start from these weights: ours, or an official .pth"
    group.add_argument("--initial-checkpoint", metavar="FILE", help=text)


def add_frames(group: Group) -> None:
    add = group.add_argument
    add("--dataset", choices=DATASETS, help="synthetic (drawn, no download), kitti, nuscenes, waymo")
    add("--data-dir", metavar="DIR", help="folder of the data set, in its own layout")
    add("--prepared", metavar="DIR", help="what prepare-lidar wrote (linzoo/ in --data-dir)")
    add("--data-version", default="v1.0-trainval", metavar="NAME", help="of nuScenes (v1.0-trainval)")
    add("--val-split", default="val", metavar="NAME", help="default val")
    add("--sweeps", type=int, default=1, metavar="N", help="sweeps merged into a frame, nuScenes (1)")
    add("--val-scenes", type=int, default=40, metavar="N", help="synthetic scenes of a validation (40)")
    add("--scene-seed", type=int, default=0, metavar="N", help="of the synthetic world (0)")
    add("-b", "--batch-size", type=int, default=2, metavar="N", help="frames a process and step (2)")


def add_data(group: Group) -> None:
    add = group.add_argument
    add_frames(group)
    add("--train-split", default="train", metavar="NAME", help="default train")
    add("--scenes", type=int, default=1000, metavar="N", help="synthetic scenes of an epoch (1000)")
    switch(group, "class-balanced", "frames repeated until each class is in equally many (CBGS)")
    add("--grad-accum-steps", type=int, default=1, metavar="N", help="steps whose gradients are added (1)")
    add("--workers", type=int, default=0, metavar="N", help="reading processes (0: none)")


def add_augmentation(group: Group) -> None:
    add = group.add_argument
    add("--flip", nargs="*", default=[], choices=("x", "y"), help="mirror half of the frames at these axes")
    add("--rotate", type=float, default=0.0, metavar="DEG", help="turn by up to so much (0)")
    add("--scale", type=float, nargs=2, default=[1.0, 1.0], metavar="X", help="sizes, from to (1 1)")
    add("--translate", type=float, default=0.0, metavar="M", help="deviation of a move, metres (0)")
    key_values(group, "paste", "objects pasted from other frames up to a count: Car=15 Pedestrian=10")
    add("--paste-min-points", type=int, default=5, metavar="N", help="points of a pasted object (5)")
    add("--no-paste-epochs", type=int, default=0, metavar="N", help="last epochs without pasting (0)")
    add("--no-aug-epochs", type=int, default=0, metavar="N", help="last epochs with no augmentation (0)")


def add_optimizer(group: Group) -> None:
    add = group.add_argument
    add("--lr", type=float, default=3e-3, metavar="X", help="highest learning rate (3e-3)")
    add("--weight-decay", type=float, default=0.01, metavar="X", help="decoupled, on all weights (0.01)")
    add("--pct-start", type=float, default=0.4, metavar="P", help="part of the updates that rise (0.4)")
    add("--div-factor", type=float, default=10.0, metavar="X", help="highest over first rate (10)")
    add("--clip-grad", type=float, default=10.0, metavar="X", help="largest norm of the gradient (10)")
    switch(group, "sync-bn", "batch norm over the frames of all processes, not each one's own")
    add("--epochs", type=int, default=80, metavar="N", help="of the one-cycle schedule (80)")
    add("--max-steps", type=int, metavar="N", help="stop after so many updates")


def add_run(group: Group) -> None:
    runs.add_run(group, output="runs/lidar", save_interval=500)
    add = group.add_argument
    add("--val-interval", type=int, default=0, metavar="N", help="epochs between validations (0: at the end)")
    switch(group, "no-validation", "none at the end either")


GROUPS = (
    ("model", add_model),
    ("data", add_data),
    ("augmentation", add_augmentation),
    ("optimizer", add_optimizer),
    ("device", add_device),
    ("run", add_run),
)


def add_groups(parser: argparse.ArgumentParser) -> None:
    add_all(parser, GROUPS)
