"""LiDAR: LION-RetNet learns on from a committed start, operators against voxels, the long runs recorded.

With ``LINZOO_KITTI`` naming a KITTI folder, the same is done on its frames.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from .context import Context, Progress, one_thread
from .lidar_page import draw, page_of
from .lidar_training import kitti_folder

NAME = "lidar"
TITLE = "LiDAR: boxes with headings, and operators against voxels"
NEEDED = ("accelerate", "scipy")  # without them, what was recorded is shown


def settings(quick: bool) -> dict:
    return {
        "kitti": kitti_folder(),
        "updates": 2 if quick else 40,
        "batch": 1 if quick else 2,
        "lr": 1e-3,
        "rise": 0.4 if quick else 0.05,  # share of the updates in which the rate rises
        "save_every": 1 if quick else 5,
        "seed": 0,
        "scene_seed": 1,  # another world than the start's
        "judged": 2 if quick else 16,
        "shown": 1 if quick else 4,
        "voxels": [300, 600] if quick else [5_000, 20_000, 60_000],
        "group": 256 if quick else 4096,
        "rounds": 1 if quick else 3,
    }


def run(context: Context) -> dict:
    from ..bench_pointcloud import recorded as recorded_times
    from ..street_scenes.record import recorded

    options = context.settings
    missing = [package for package in NEEDED if find_spec(package) is None]
    detector, long_run = None, recorded()
    with one_thread():
        if not missing:
            from .lidar_training import trained

            detector = trained(context)
        operators = [measured(voxels, context) for voxels in options["voxels"]]
    copy_pictures(long_run, context.folder)
    backbones = [row for row in recorded_times() if row["what"] == "backbones" and row["pass"] == "forward"]
    section = {
        "detector": detector, "missing": missing, "operators": operators, "recorded": long_run,
        "backbones": backbones, "settings": options,
    }  # fmt: skip
    draw(context.folder, section)
    seconds = sum(row["cpu_seconds"] for row in operators)
    return section | {"cpu_seconds": seconds + (detector["cpu_seconds"] if detector else 0)}


def html(section: dict, folder: Path) -> str:
    return page_of(section, folder)


def measured(voxels: int, context: Context) -> dict:
    """Median CPU seconds of every operator on so many voxels, or what an earlier run has measured."""
    from ..bench_pointcloud import OPERATORS, WINDOWED, operator_calls
    from ..bench_rows import cpu_seconds, interleaved

    options, key = context.settings, f"operators-{voxels}"
    row = context.store.get(key)
    if row is None:
        bar = Progress(f"lidar, operators at {voxels:,} voxels", 1, unit="size")
        times: dict[str, list[float]] = {}

        def measure() -> None:
            calls = operator_calls(voxels, (*OPERATORS, WINDOWED), group=options["group"])
            few = voxels == min(options["voxels"])  # where a round that warms up costs little
            times.update(interleaved(calls, options["rounds"], warm_up=int(few)))

        spent = cpu_seconds(measure)
        seconds = {name: median(found) for name, found in times.items()}
        row = {"voxels": voxels, "seconds": seconds, "cpu_seconds": spent}
        context.store.put(key, row)
        bar.close(", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()))
    return row


def copy_pictures(rows: list[dict], folder: Path) -> None:
    """The recorded pictures, beside the ones drawn now."""
    from ..street_scenes.record import PICTURE, RESULTS

    for detector in dict.fromkeys(row["detector"] for row in rows):
        picture = RESULTS / PICTURE.format(detector)
        if picture.exists():
            shutil.copyfile(picture, folder / f"recorded_{detector}.png")
