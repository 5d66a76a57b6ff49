"""``linzoo prepare-lidar``: check every frame of a LiDAR data set, store its facts and the objects to paste.

A run that was ended goes on where it was. Training and validation find what it wrote by themselves, or by
``--prepared DIR`` where it was written with ``--output DIR``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .lidar.preparation import Summary

DATASETS = ("kitti", "nuscenes", "waymo")
SHOWN = 20  # faults of a split that are listed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dataset", required=True, choices=DATASETS, help="kitti, nuscenes or waymo")
    add("--data-dir", required=True, metavar="DIR", help="folder of the data set, in its own layout")
    add("--data-version", default="v1.0-trainval", metavar="NAME", help="of nuScenes (v1.0-trainval)")
    add("--split", nargs="+", default=["train", "val"], metavar="NAME", help="default train val")
    add("--sweeps", type=int, default=1, metavar="N", help="sweeps merged into a frame, nuScenes (1)")
    add("--output", metavar="DIR", help="where to write (linzoo/ in --data-dir); else --prepared says it")
    text = "splits whose objects are stored to be pasted (train)"
    add("--paste-split", nargs="*", metavar="NAME", help=text)
    add("--paste-min-points", type=int, default=5, metavar="N", help="points of such an object (5)")
    text = "most such objects of a class; of more, an even draw (20000)"
    add("--paste-limit", type=int, default=20000, metavar="N", help=text)
    add("--part", type=int, default=200, metavar="N", help="frames between two savings (200)")
    add("--skip-faulty", action="store_true", help="leave frames with faults out of the split")
    add("--again", action="store_true", help="forget what an earlier run stored")


def check(args: argparse.Namespace) -> None:
    """Raises: ValueError naming the flag, what it must be and what it was; OSError for what is not there."""
    from .lidar.checks import check_nuscenes

    for name in ("sweeps", "paste_min_points", "paste_limit", "part"):
        value = getattr(args, name)
        if value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    check_nuscenes(args)
    if not Path(args.data_dir).is_dir():
        raise ValueError(f"--data-dir must be the folder of the data set {args.dataset}, got {args.data_dir}")
    for split in args.paste_split or ():
        if split not in args.split:
            raise ValueError(f"--paste-split must be of --split {' '.join(args.split)}, got {split}")
    for split in args.split:
        check_split(args, split)


def check_split(args: argparse.Namespace, split: str) -> None:
    """That the data set has a split, as far as its lists tell: no table, label or point is read.

    Raises: ValueError, OSError naming the list, or the folder that is none of the data set.
    """
    folder = Path(args.data_dir)
    if args.dataset == "kitti":
        from ..pointcloud.data.kitti import split_frames

        split_frames(folder, split)
    elif args.dataset == "nuscenes":
        from ..pointcloud.data.nuscenes import split_scenes

        split_scenes(folder, args.data_version, split)
    else:
        from ..pointcloud.data.waymo import sequence_folder, split_sequences

        split_sequences(folder, sequence_folder(folder), split)


def run(args: argparse.Namespace) -> int:
    from .files import check_writable
    from .lidar.places import writing_to
    from .lidar.preparation import Options, prepare_split
    from .runs.log import Log

    check(args)
    paste_splits = ["train"] if args.paste_split is None else args.paste_split
    output = Path(args.output or Path(args.data_dir) / "linzoo")
    check_writable(output, "--output")
    log = Log(True)
    summaries = []
    for split in args.split:
        options = Options(
            part=args.part,
            min_points=args.paste_min_points,
            limit=args.paste_limit if split in paste_splits else 0,
            skip_faulty=args.skip_faulty,
        )
        with writing_to("--output", output):
            summaries.append(
                prepare_split(lambda split=split: open_data(args, split, output), options, args.again, log)
            )
    print(table(summaries))
    for line in remarks(summaries, args.skip_faulty):
        print(f"linzoo prepare-lidar: {line}", file=sys.stderr)
    return 1 if any(summary.faults for summary in summaries) and not args.skip_faulty else 0


def open_data(args: argparse.Namespace, split: str, output: Path) -> Any:
    """The data set of a split, its stored facts in ``output``."""
    if args.dataset == "kitti":
        from ..pointcloud.data.kitti import KittiFrames

        return KittiFrames(args.data_dir, split, prepared=output)
    if args.dataset == "nuscenes":
        from ..pointcloud.data.nuscenes import NuScenesFrames

        return NuScenesFrames(args.data_dir, args.data_version, split, sweeps=args.sweeps, prepared=output)
    from ..pointcloud.data.waymo import WaymoFrames

    return WaymoFrames(args.data_dir, split, prepared=output)


def table(summaries: Sequence[Summary]) -> str:
    """A row a split: frames, those without objects, objects of each class, objects to paste, faults."""
    classes = list(summaries[0].objects)
    head = ["split", "frames", "no objects", *classes, "to paste", "faults"]
    rows = [
        [s.split, s.frames, s.unlabelled, *s.objects.values(), s.pasted, len(s.faults)] for s in summaries
    ]
    cells = [head, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = []
    for row in cells:
        padded = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *padded]))
    return "\n".join(lines)


def remarks(summaries: Sequence[Summary], skipped: bool) -> list[str]:
    lines = []
    for summary in summaries:
        if summary.assumed_sizes:
            lines.append(
                f"{summary.split}: {summary.assumed_sizes} frames have no picture; its size was taken to be "
                "1242 x 375"
            )
        lines += [f"{summary.split} {name}: {text}" for name, text in summary.faults[:SHOWN]]
        if len(summary.faults) > SHOWN:
            lines.append(f"{summary.split}: {len(summary.faults) - SHOWN} more frames have faults")
        if summary.faults and skipped:
            lines.append(f"{summary.split}: stored without {len(summary.faults)} frames that have faults")
        elif summary.faults:
            lines.append(f"{summary.split}: nothing stored; mend the files and run again, or --skip-faulty")
    return lines


if __name__ == "__main__":
    from linzoo.cli import main

    sys.exit(main(["prepare-lidar", *sys.argv[1:]]))
