"""``linzoo detect RECIPE CHECKPOINT FILES``: what a LiDAR detector finds, as json and seen from above."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import check_writable, read_json, remove_leftovers, write_json
from .predict import pick_device

if TYPE_CHECKING:
    import torch

    from ..pointcloud import Detections, Detector, DetectorConfig

SUFFIXES = (".bin", ".npy", ".pcd")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("recipe", metavar="RECIPE", help="a packaged name, a .toml file, a run's args.yaml, or a detector")
    add("checkpoint", type=Path, metavar="CHECKPOINT", help=".safetensors, last.pth.tar or official .pth")
    add("inputs", nargs="+", type=Path, metavar="FILE", help="points: .bin, .npy, .pcd, or folders of them")
    add("--out-dir", type=Path, default=Path("outputs"), metavar="DIR", help="default outputs")
    add("--score-thr", type=float, default=0.3, metavar="P", help="lowest score to keep (default 0.3)")
    add("--point-values", type=int, metavar="N", help="values of a point in .bin files (default: by name)")
    add("--range", type=float, nargs=4, metavar="M", help="low x, y, high x, y of the picture")
    add("--no-pictures", action="store_true", help="json alone")
    add("--resume", action="store_true", help="leave out files whose json is there")
    add("--device", default="auto", help="auto (default: a GPU if there is one), cpu, cuda:1")


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from .lidar.build import build_detector
    from .lidar.places import writing_to

    check_arguments(args)
    targets = dict(zip(files := list(point_files(args.inputs)), names_of(files), strict=True))
    name, backbone = detector_of(args.recipe)
    device = pick_device(args.device)
    detector = build_detector(name, backbone, args.checkpoint, flag="CHECKPOINT").eval().to(device)
    check_writable(args.out_dir, "--out-dir")
    remove_leftovers(args.out_dir)
    made_with = {"detector": name, "checkpoint": str(args.checkpoint), "score_thr": args.score_thr}
    targets = {file: args.out_dir / target for file, target in targets.items()}
    left = [file for file in files if not (args.resume and is_done(targets[file], made_with))]
    if len(left) < len(files):
        print(f"linzoo detect: {len(files) - len(left)} done before, {len(left)} left", file=sys.stderr)
    total, faults = 0, 0
    for file in tqdm(left, unit="file", disable=len(left) < 2 or not sys.stderr.isatty()):
        try:
            with writing_to("--out-dir", args.out_dir):
                total += detect_file(detector, file, targets[file], args, made_with)
        except ValueError as error:
            if len(files) == 1:
                raise
            faults += 1
            tqdm.write(f"linzoo detect: {' '.join(str(error).split())}", file=sys.stderr)
    print(f"linzoo detect: {total} boxes in {len(left) - faults} file(s): {args.out_dir}")
    return 1 if faults else 0


def check_arguments(args: argparse.Namespace) -> None:
    """Raises: ValueError naming the flag, what it must be and what it was."""
    if not 0 <= args.score_thr <= 1:
        raise ValueError(f"--score-thr must lie in 0 .. 1, got {args.score_thr}")
    if args.point_values is not None and args.point_values < 3:
        raise ValueError(f"--point-values must be at least 3 (x, y, z), got {args.point_values}")
    if args.range and not (args.range[0] < args.range[2] and args.range[1] < args.range[3]):
        raise ValueError(f"--range must be low x, y below high x, y in metres, got {args.range}")


def point_files(inputs: Sequence[Path]) -> Iterator[Path]:
    """The files named, and those in the folders named, sorted; each once.

    Raises: FileNotFoundError, ValueError.
    """
    seen = set()
    for path in inputs:
        for file in files_in(path):
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def files_in(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        if not found:
            raise ValueError(f"FILE must be a folder that holds {', '.join(SUFFIXES)}, {path} has none")
        return found
    if not path.is_file():
        raise FileNotFoundError(f"FILE must be a file of points or a folder, {path} is not there")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"FILE must end in {', '.join(SUFFIXES)}, got {path}")
    return [path]


def names_of(files: Sequence[Path]) -> list[str]:
    """What results are called: the files' names, with the folder before those that occur twice.

    Raises: ValueError for two files that would have one name.
    """
    names = [file.name for file in files]
    long = [f"{f.resolve().parent.name}-{f.name}" if names.count(f.name) > 1 else f.name for f in files]
    for file, name in zip(files, long, strict=True):
        if long.count(name) > 1:
            raise ValueError(f"FILE must differ in name or folder's name, there are two {name} ({file})")
    return long


def is_done(target: Path, made_with: Mapping[str, Any]) -> bool:
    """Whether a file's result is there, of the same detector, weights and threshold."""
    content = read_json(json_of(target))
    return isinstance(content, dict) and made_with.items() <= content.items()


def detector_of(recipe: str) -> tuple[str, dict[str, Any]]:
    """The detector that a recipe, a run's ``args.yaml`` or a name means, and changes to its backbone.

    Raises: ValueError, OSError.
    """
    from ..kernels.dispatch import nearest
    from ..pointcloud import list_detectors
    from .recipe import SUFFIXES as RECIPES
    from .recipe import recipe_names
    from .train_lidar import parse

    names, recipes = list_detectors(), recipe_names("pointcloud")
    if Path(recipe).suffix in RECIPES or recipe in recipes:
        settings = parse([recipe])
        if not settings.detector:
            raise ValueError(f"RECIPE must be one of a LiDAR detector, {recipe} names none")
        return settings.detector, settings.backbone_kwargs
    if recipe not in names:
        raise ValueError(
            f"RECIPE must be a packaged recipe, a .toml file, a run's args.yaml or a detector, got {recipe!r}"
            f"{nearest(recipe, [*recipes, *names])}"
        )
    return recipe, {}


def detect_file(
    detector: Detector, file: Path, target: Path, args: argparse.Namespace, made_with: Mapping[str, Any]
) -> int:
    """Writes TARGET.json and TARGET.png; returns how many boxes there are."""
    from .lidar.evaluate import to_cpu

    points = read_frame(file, detector.config, args.point_values)
    (found,) = detector.detect([points.to(next(detector.parameters()).device)])
    found = to_cpu(found)
    found = type(found)(*(part[found.scores >= args.score_thr] for part in found))
    if not args.no_pictures:
        from .lidar.pictures import write_picture

        low_x, low_y, _, high_x, high_y, _ = detector.config.grid.point_range
        area = tuple(args.range) if args.range else (low_x, low_y, high_x, high_y)
        title = f"{file.name}: {len(found.boxes)} found by {made_with['detector']}"
        picture = target.with_name(f"{target.name}.png")
        write_picture(picture, points, found, detector.config.classes, area=area, title=title)
    write_json(json_of(target), {**made_with, **as_json(found, detector.config.classes, file)})
    return len(found.boxes)


def read_frame(file: Path, config: DetectorConfig, values: int | None) -> torch.Tensor:
    """Points (N, features): the first values of each point, as many as the detector takes.

    The fifth value of nuScenes' .pcd.bin is the beam; its detectors take the time lag, 0 in a single sweep.
    Raises: ValueError where a file has fewer.
    """
    from ..pointcloud.data.files import read_points
    from ..pointcloud.metrics import NUSCENES_CLASSES

    points, features = read_points(file, values), config.point_features
    if points.shape[1] < features:
        raise ValueError(
            f"{file}: points must have {features} values for this detector, got {points.shape[1]} "
            "(--point-values N for .bin files of another width)"
        )
    points = points[:, :features].contiguous()
    if file.name.endswith(".pcd.bin") and tuple(config.classes) == tuple(NUSCENES_CLASSES):
        points[:, 4] = 0
    return points


def json_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def as_json(found: Detections, classes: Sequence[str], file: Path) -> dict[str, Any]:
    """Boxes (x, y, z, dx, dy, dz, yaw[, vx, vy]) in metres and radians, best first."""
    return {
        "file": str(file),
        "boxes": [[round(value, 4) for value in box] for box in found.boxes.tolist()],
        "scores": [round(score, 4) for score in found.scores.tolist()],
        "classes": [classes[index] for index in found.classes.tolist()],
    }
