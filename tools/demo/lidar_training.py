"""LION-RetNet goes on from the committed start for a few updates, judged on unseen frames both times."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from ..runs.log import Log
from .context import Context, Progress

VARIABLE = "LINZOO_KITTI"  # the only variable that linzoo reads, and only here
DETECTOR = "lion_retnet"
CPU = torch.device("cpu")


def kitti_folder() -> str | None:
    """The folder that ``LINZOO_KITTI`` names, None where it is not set.

    Raises: ValueError for one that is no KITTI folder.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    path = Path(folder).resolve()
    if not (path / "ImageSets").is_dir() or not (path / "training").is_dir():
        raise ValueError(f"{VARIABLE} must be a KITTI folder, with ImageSets and training in it, got {path}")
    return str(path)


def trained(context: Context) -> dict:
    """Figures before and after, and what was taken; the pictures are in the context's folder."""
    options, frames = context.settings, unseen_frames(context.settings)
    before = kept(context, "before", lambda: judged(start_model(), frames, options))
    after = kept(context, "after", lambda: train_on(context, frames))
    for file in after["pictures"]:
        shutil.copyfile(context.store.path(file), context.folder / file)
    seconds = before["cpu_seconds"] + after["cpu_seconds"]
    return {"before": before, "after": after, "cpu_seconds": seconds}


def kept(context: Context, key: str, make: Any) -> dict:
    """A step's record, worked out once, with the CPU seconds of this process."""
    record = context.store.get(key)
    if record is None or not all(context.store.path(file).exists() for file in record.get("pictures", ())):
        began = time.process_time()
        record = make()
        record |= {"cpu_seconds": time.process_time() - began}
        context.store.put(key, record)
    return record


def start_model() -> Any:
    from ...pointcloud import create_detector
    from ..street_scenes.detectors import START

    return create_detector(f"{DETECTOR}_small", checkpoint=START)


def judged(model: Any, frames: Any, options: dict) -> dict:
    from ..street_scenes.judge import judge

    metrics = judge(model, frames, CPU, Log(False), options["judged"])
    return {"metrics": metrics, "frames": min(options["judged"], len(frames))}


def train_on(context: Context, frames: Any) -> dict:
    """The updates, from where a killed run stood; then figures and pictures."""
    from ..files import write_atomic
    from ..street_scenes.detectors import train_one
    from ..street_scenes.judge import draw

    options = context.settings
    bar = Progress("lidar, LION-RetNet", 1, unit="detector")
    run, _ = train_one(
        DETECTOR, context.store.folder, seed=options["seed"], device="cpu", **flags_of(options)
    )
    row = judged(run.model, frames, options) | {"updates": run.step, "pictures": []}
    for index in range(min(options["shown"], len(frames))):
        name = f"unseen_{index}.png"
        write_atomic(context.store.path(name), draw(run.model, frames, index, CPU))
        row["pictures"].append(name)
    bar.close(f"score {row['metrics']['score']:.1f}")
    return row


def flags_of(options: dict) -> dict[str, Any]:
    """Flags of ``linzoo train``: one cycle over the updates, on KITTI a steady rate from its first frames."""
    from ..street_scenes.detectors import START

    flags = {
        "initial_checkpoint": START, "batch_size": options["batch"], "lr": options["lr"],
        "max_steps": options["updates"], "save_interval": options["save_every"], "log_interval": 10,
    }  # fmt: skip
    if options["kitti"]:
        data = {"dataset": "kitti", "data_dir": options["kitti"]}
        return flags | data | {"epochs": options["updates"], "div_factor": 1}
    scenes = options["updates"] * options["batch"]
    cycle = {"epochs": 1, "pct_start": options["rise"]}
    return flags | cycle | {"scenes": scenes, "scene_seed": options["scene_seed"]}


def unseen_frames(options: dict) -> Any:
    """Drawn scenes of the split that no training draws, or KITTI's validation frames."""
    from ...pointcloud.data.synthetic import SyntheticScenes

    if not options["kitti"]:
        return SyntheticScenes("test", options["judged"])
    from ...pointcloud.data.kitti import KittiFrames

    return KittiFrames(options["kitti"], "val")
