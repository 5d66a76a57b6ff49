"""The long run: every student with several seeds, judged; its rows and pictures are committed.

A student that is done is kept with its figures, one that was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from ..demo import pictures
from ..demo.context import Progress, one_thread
from ..demo.machine import commit, processor, versions
from ..demo.store import PartStore, only_one
from ..files import read_rows, write_atomic, write_rows
from .judge import Judge
from .students import STUDENTS, train_student

RESULTS = Path(__file__).parents[1] / "results"
ROWS, SHEET = "digits-diffusion.jsonl", "digits-diffusion-{}.png"
SETTINGS = {
    "steps": 500,
    "seeds": [0, 1, 2],
    "sample_steps": 25,
    "noise_rounds": 3,
    "sheet_rows": 6,
    "sheet_guidance": 1.5,
}


def record(output: Path, settings: dict = SETTINGS, results: Path = RESULTS) -> None:
    """Train, judge, and replace the rows and the sheets in ``results``."""
    folder = output / "full"
    folder.mkdir(parents=True, exist_ok=True)
    about = {"command": "python -m linzoo.tools.digits_diffusion full", "commit": commit()}
    about |= {"device": processor(), "date": f"{datetime.now(UTC):%Y-%m-%d}", **versions()}
    with only_one(folder), one_thread():
        store = PartStore(folder / "state", settings | {"made_with": versions()})
        judge = Judge(settings)
        rows = [{"model": "real"} | judge.real()]
        for seed in settings["seeds"]:
            rows.append(kept(store, "teacher", seed, lambda seed: judge_teacher(judge, seed, store)))
        for seed in settings["seeds"]:
            for name in STUDENTS:
                rows.append(
                    kept(store, name, seed, lambda seed, n=name: judge_student(judge, n, seed, store))
                )
    for name in ("teacher", *STUDENTS):
        write_atomic(results / SHEET.format(name), store.path(f"{name}.png").read_bytes())
    write_rows(results / ROWS, [row | {"settings": settings} | about for row in rows])


def kept(store: PartStore, name: str, seed: int, judged: Callable[[int], dict]) -> dict:
    """The row of a model and seed, worked out once."""
    row = store.get(f"{name}-{seed}")
    if row is None:
        bar = Progress(f"digits diffusion, {name}, seed {seed}", 1, unit="model")
        row = {"model": name, "seed": seed} | judged(seed)
        store.put(f"{name}-{seed}", row)
        bar.close(f"distance {row['distance']:.2f}, {100 * row['read_as_asked']:.0f} % read as asked")
    return row


def judge_teacher(judge: Judge, seed: int, store: PartStore) -> dict:
    if seed == judge.settings["seeds"][0]:
        pictures.picture(store.path("teacher.png"), judge.sheet(judge.teacher))
    return judge.judge(judge.teacher, seed) | {"parameters": count(judge.teacher)}


def judge_student(judge: Judge, name: str, seed: int, store: PartStore) -> dict:
    """Train and judge one; ``resumed``: its CPU seconds are those of the last part only."""
    resumed = store.path(f"{name}-{seed}").exists()
    steps = judge.settings["steps"]
    trained, seconds = train_student(name, store.folder, steps=steps, seed=seed, save_interval=100)
    began = time.process_time()
    row = judge.judge(trained.best, seed) | {"steps": steps, "parameters": count(trained.best)}
    if seed == judge.settings["seeds"][0]:
        pictures.picture(store.path(f"{name}.png"), judge.sheet(trained.best))
    judging = time.process_time() - began
    return row | {"cpu_seconds": seconds, "judging_cpu_seconds": judging, "resumed": resumed}


def count(model) -> int:
    return sum(p.numel() for p in model.parameters())


def recorded(results: Path = RESULTS) -> list[dict]:
    """The committed rows, none where there are none yet."""
    return read_rows(results / ROWS)
