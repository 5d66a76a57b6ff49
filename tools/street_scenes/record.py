"""The long run: every detector with several seeds, judged on unseen scenes; rows and pictures are committed.

A detector that is done is kept with its figures, one that was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ...pointcloud import Detector
from ...pointcloud.data.synthetic import SyntheticScenes
from ..demo.machine import commit, processor, versions
from ..files import read_json, read_rows, write_atomic, write_json, write_rows
from .detectors import RECIPES, SEEDS, train_one
from .judge import judge, sheet

RESULTS = Path(__file__).parents[1] / "results"
ROWS, PICTURE = "street-scenes.jsonl", "street-scenes-{}.png"
TEST_SCENES = 100  # of the split "test", which no training draws
SHOWN = 3  # of the test scenes, in the committed picture
COMMAND = "python -m linzoo.tools.street_scenes full"


def record(
    output: Path,
    device: str,
    workers: int,
    only: tuple[str | None, int | None] = (None, None),
    results: Path = RESULTS,
    **flags: Any,
) -> None:
    """Train and judge; replace the rows and the picture in ``results`` of each detector with every seed done.

    only: a detector, a seed; None is all of them, and after one seed alone nothing is replaced.
    flags: further flags of ``linzoo train``, with underscores.
    """
    folder = output / "full"
    for name in RECIPES if only[0] is None else only[:1]:
        rows = [
            one_row(name, seed, folder, device, workers, flags) for seed in SEEDS if only[1] in (None, seed)
        ]
        if only[1] is None:
            replace(name, rows, results)
            picture = (folder / f"{name}-{SEEDS[0]}" / "scenes.png").read_bytes()
            write_atomic(results / PICTURE.format(name), picture)


def replace(name: str, rows: list[dict], results: Path) -> None:
    """Those of other detectors stand, as long as there is a recipe for them."""
    known = [row for row in recorded(results) if row["detector"] != name and row["detector"] in RECIPES]
    place = list(RECIPES).index
    write_rows(results / ROWS, sorted(known + rows, key=lambda row: (place(row["detector"]), row["seed"])))


def one_row(name: str, seed: int, folder: Path, device: str, workers: int, flags: dict) -> dict:
    """The row of a detector and a seed: trained once, then judged once; both are kept in the run's folder."""
    place = folder / f"{name}-{seed}"
    row = read_json(place / "row.json")
    if row is not None:
        return row
    resumed = place.exists()
    run, seconds = train_one(name, folder, seed=seed, device=device, workers=workers, **flags)
    trained = read_json(place / "trained.json")
    if trained is None:
        trained = {"detector": name, "recipe": RECIPES[name], "seed": seed, "updates": run.step}
        trained |= {"frames_an_update": run.plan.items, "parameters": count(run.model)}
        trained |= {"seconds": round(seconds, 1), "on": where(run.device), "resumed": resumed}
        trained |= {"command": COMMAND, "commit": commit(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
        trained |= versions()
        write_json(place / "trained.json", trained)
    frames = SyntheticScenes("test", TEST_SCENES)
    metrics = judge(run.model, frames, run.device, run.log, TEST_SCENES)
    row = trained | {"test_scenes": TEST_SCENES, "metrics": metrics, "judged_on": where(run.device)}
    write_atomic(place / "scenes.png", sheet(run.model, frames, run.device, SHOWN))
    write_json(place / "row.json", row)
    return row


def where(device: torch.device) -> str:
    return processor() if device.type == "cpu" else torch.cuda.get_device_name(device)


def count(model: Detector) -> int:
    return sum(p.numel() for p in model.parameters())


def recorded(results: Path = RESULTS) -> list[dict]:
    """The committed rows, none where there are none yet."""
    return read_rows(results / ROWS)
