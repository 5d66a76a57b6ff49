"""``linzoo validate`` for LiDAR detectors: the data set's own metric, and its submission files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from .lidar.arguments import add_detector, add_frames
    from .runs.arguments import add_recipe

    add_recipe(parser)
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights: ours, or an official .pth")
    add_detector(parser.add_argument_group("model"))
    add_frames(parser.add_argument_group("data"))
    run = parser.add_argument_group("run")
    run.add_argument("--device", default="auto", help="auto (default: a GPU if there is one), cpu, cuda:1")
    run.add_argument("--results-file", type=Path, metavar="FILE", help="figures as json")
    run.add_argument(
        "--export",
        type=Path,
        metavar="PLACE",
        help="what the benchmark takes: KITTI's folder, nuScenes' json",
    )


def defaults_from(argv: Sequence[str], parser: argparse.ArgumentParser) -> dict:
    """What the recipe in ``argv`` says about the model and the data; empty without one."""
    from . import train_lidar
    from .runs.settings import own_words, recipe_defaults

    config = parser.parse_known_args(own_words(argv, "validate"))[0].config
    if config is None:
        return {}
    training = argparse.ArgumentParser()
    train_lidar.add_arguments(training)
    settings = recipe_defaults([str(config)], training, train_lidar.DOMAIN)
    known = {action.dest for action in parser._actions}
    return {name: value for name, value in settings.items() if name in known - {"batch_size", "device"}}


def run(args: argparse.Namespace) -> int:
    from .files import check_writable, write_json
    from .lidar.build import build_detector
    from .lidar.checks import check_data, check_export
    from .lidar.datasets import check_fits, open_frames
    from .lidar.evaluate import detect_frames, finite_or_none
    from .lidar.export import export
    from .lidar.places import writing_to
    from .predict import pick_device
    from .runs.log import Log

    check_data(args)
    check_export(args)
    if args.checkpoint is None:
        raise ValueError("--checkpoint must be a file of weights, got none")
    device = pick_device(args.device)
    frames = open_frames(args, train=False)
    detector = build_detector(args.detector, args.backbone_kwargs, args.checkpoint)
    check_fits(args, detector.config, frames)
    for place, flag in ((args.results_file, "--results-file"), (args.export, "--export")):
        if place is not None:
            check_writable(place.parent, flag)
    log = Log(primary=True)
    found, labels = detect_frames(detector.to(device), frames, device, log, args.batch_size)
    metrics = {"detector": args.detector, "frames": len(frames), **frames.score(found, labels)}
    metrics = finite_or_none(metrics)
    if args.results_file is not None:
        with writing_to("--results-file", args.results_file):
            write_json(args.results_file, metrics)
    if args.export is not None:
        with writing_to("--export", args.export):
            export(args.dataset, frames, found, args.export)
    print(f"--result\n{json.dumps(rounded(metrics), indent=4)}")
    return 0


def rounded(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: round(v, 4) if isinstance(v, float) else v for name, v in metrics.items()}
