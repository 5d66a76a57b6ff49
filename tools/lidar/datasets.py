"""The data sets that ``--dataset`` names, and what is done to their frames in training."""

from __future__ import annotations

import argparse
from math import radians
from pathlib import Path
from typing import Any

import numpy as np

from ...pointcloud.data.augment import AugmentOptions
from ...pointcloud.data.paste import PasteDatabase
from ...pointcloud.detector import DetectorConfig
from ...pointcloud.records import Frame
from ..training.seeding import Use


def open_frames(args: argparse.Namespace, train: bool) -> Any:
    """The frames to train on, or to validate with.

    Raises: ValueError or OSError that names the folder and what it lacks.
    """
    split = args.train_split if train else args.val_split
    if args.dataset == "synthetic":
        from ...pointcloud.data.synthetic import SPLITS, SyntheticScenes

        if split not in SPLITS:
            name = "--train-split" if train else "--val-split"
            raise ValueError(f"{name} must be one of {', '.join(SPLITS)} for synthetic scenes, got {split}")
        return SyntheticScenes(split, args.scenes if train else args.val_scenes, args.scene_seed)
    folder = Path(args.data_dir)
    if not folder.is_dir():
        raise ValueError(f"--data-dir must be the folder of the data set {args.dataset}, got {folder}")
    if args.prepared and not list(Path(args.prepared).glob("frames_*.json")):
        raise ValueError(f"--prepared must be a folder that prepare-lidar has filled, got {args.prepared}")
    if args.dataset == "kitti":
        from ...pointcloud.data.kitti import KittiFrames

        return KittiFrames(folder, split, prepared=args.prepared)
    if args.dataset == "nuscenes":
        from ...pointcloud.data.nuscenes import NuScenesFrames

        words = {"sweeps": args.sweeps, "prepared": args.prepared}
        return NuScenesFrames(folder, args.data_version, split, **words)
    from ...pointcloud.data.waymo import WaymoFrames

    return WaymoFrames(folder, split, prepared=args.prepared)


class ClassBalanced:
    """Frames repeated so that each class is in about equally many: CBGS, arXiv 1908.09492, section 3.1.

    Every class gets the same share of as many frames as there are pairs of a frame and a class in it, drawn
    with replacement from those that hold the class.
    """

    def __init__(self, frames: Any, seed: int) -> None:
        self.frames = frames
        holders: list[list[int]] = [[] for _ in frames.classes]
        for index in range(len(frames)):
            for class_ in frames.labelled_classes(index):
                holders[class_].append(index)
        present = [held for held in holders if held]
        share = sum(map(len, present)) // max(len(present), 1)
        chance = np.random.default_rng([seed, Use.SAMPLE])
        drawn = [chance.choice(held, share) for held in present]
        self.order = np.concatenate(drawn) if drawn else np.arange(len(frames))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Frame:
        return self.frames[int(self.order[index])]


def check_fits(args: argparse.Namespace, config: DetectorConfig, frames: Any) -> None:
    """Raises: ValueError when the detector was made for other classes or other points."""
    if tuple(config.classes) != tuple(frames.classes):
        raise ValueError(
            f"--detector {args.detector} finds {', '.join(config.classes)}; --dataset {args.dataset} has "
            f"{', '.join(frames.classes)}"
        )
    if config.point_features != frames.point_features:
        raise ValueError(
            f"--detector {args.detector} takes {config.point_features} values a point; --dataset "
            f"{args.dataset} has {frames.point_features}"
        )


def augment_options(args: argparse.Namespace) -> AugmentOptions:
    return AugmentOptions(
        flip_x="x" in args.flip,
        flip_y="y" in args.flip,
        rotation=radians(args.rotate),
        scale=tuple(args.scale),
        translation=args.translate,
        paste=dict(args.paste),
    )


def open_paste(args: argparse.Namespace, frames: Any) -> PasteDatabase | None:
    """The objects to paste: those that ``linzoo prepare-lidar`` wrote, else gathered from the frames now.

    Raises: ValueError for a class that the data set does not have.
    """
    if not args.paste:
        return None
    unknown = [name for name in args.paste if name not in frames.classes]
    if unknown:
        raise ValueError(f"--paste must name classes of {', '.join(frames.classes)}, got {unknown[0]}")
    return PasteDatabase.of(frames, min_points=args.paste_min_points)
