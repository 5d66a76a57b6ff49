"""Part 4: a detector with an all-linear backbone learns to find objects; a backbone at detection's sizes."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from .context import Context, one_thread
from .detection_page import draw, page_of
from .worker import kept_point

NAME = "detection"
TITLE = "Detection: boxes, and large pictures"
POINT = "linzoo.tools.demo.detection_point"  # measures one pass
RECORDED = Path(__file__).parents[1] / "results" / "detection-backbone.jsonl"


def settings(quick: bool) -> dict:
    return {
        "model": "nalaformer_xt" if quick else "ravlt_tiny",
        # mixers, height, width of what is measured here; the rest has been recorded
        "points": [["linear", 64, 96], ["published", 64, 96]]
        if quick
        else [["linear", 800, 1280], ["published", 800, 1280], ["linear", 1600, 2560]],
        "detector": {
            "dims": [24, 48, 96],
            "heads": [1, 2, 4],
            "depths": [1, 1, 2],
            "channels": 64,
            "side": 64 if quick else 128,
            "steps": 4 if quick else 120,
            "save_every": 2 if quick else 20,
            "batch": 2 if quick else 8,
            "lr": 2e-3,
            "weight_decay": 0.05,
            "clip": 5.0,
            "test_scenes": 4 if quick else 48,
            "shown": 2 if quick else 8,
            "shown_score": 0.5,
            "seed": 0,
        },
    }


def run(context: Context) -> dict:
    options = context.settings
    points = [measured(*point, context) for point in options["points"]]
    detector = None
    if find_spec("mmdet") is not None:
        from .detection_training import train

        with one_thread():
            detector = train(options["detector"], context.store)
    recorded = [row for row in read_recorded() if row["model"] == options["model"]]
    section = {"points": points, "recorded": recorded, "detector": detector, "settings": options}
    draw(context.folder, section)
    seconds = sum(point["process_seconds"] for point in points)
    return section | {"cpu_seconds": seconds + (detector["cpu_seconds"] if detector else 0)}


def html(section: dict, folder: Path) -> str:
    return page_of(section, folder)


def measured(mixers: str, height: int, width: int, context: Context) -> dict:
    """One pass of the backbone in a process of its own, or what an earlier run has measured."""
    key = f"{mixers}-{height}x{width}"
    label = f"detection, {mixers} backbone, {height} x {width}"
    request = point_request(context.settings["model"], mixers, height, width)
    return kept_point(context, key, label, "pass", POINT, request)


def point_request(model: str, mixers: str, height: int, width: int) -> dict:
    return {"model": model, "mixers": mixers, "height": height, "width": width}


def read_recorded() -> list[dict]:
    """Points that take too long for the demo, measured once; each names its command and machine."""
    return [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]
