"""A diffusion model of digits made linear in four ways: thirty steps of each here, the long run recorded."""

from __future__ import annotations

import shutil
import time
from importlib.util import find_spec
from pathlib import Path

from . import pictures
from .context import Context, Progress, one_thread
from .diffusion_page import page_of

NAME = "diffusion"
TITLE = "Diffusion: a softmax model of digits made linear"
NEEDED = ("diffusers", "accelerate", "torchmetrics")  # without them, what was recorded is shown


def settings(quick: bool) -> dict:
    return {
        "students": ["lit", "clear"] if quick else ["lit", "scratch", "clear", "linear"],
        "steps": 2 if quick else 30,
        "warmup": 1 if quick else 5,
        "batch": 8 if quick else 32,
        "seed": 0,
        "sample_steps": 2 if quick else 12,
        "sheet_rows": 1 if quick else 3,
        "sheet_guidance": 1.5,
        "noise_rounds": 1,
    }


def run(context: Context) -> dict:
    from ..digits_diffusion.record import recorded

    began = time.process_time()
    missing = [package for package in NEEDED if find_spec(package) is None]
    rows, own = [], 0.0
    if not missing:
        from ..digits_diffusion.judge import Judge

        with one_thread():
            judge = Judge(context.settings)
            pictures.picture(context.folder / "teacher.png", judge.sheet(judge.teacher))
            own = time.process_time() - began
            rows = [student(name, judge, context) for name in context.settings["students"]]
    long_run = recorded()
    copy_sheets(long_run, context.folder)
    return {
        "rows": rows,
        "missing": missing,
        "recorded": long_run,
        "settings": context.settings,
        "cpu_seconds": own + sum(row["cpu_seconds"] for row in rows),
    }


def html(section: dict, folder: Path) -> str:
    return page_of(section, folder)


def student(name: str, judge, context: Context) -> dict:
    """Train one for a few steps, or find what an earlier run has trained; draw its sheet."""
    from ..digits_diffusion.students import train_student, untrained

    options, store = context.settings, context.store
    row, sheet = store.get(name), store.path(f"{name}.png")
    if row is None or not sheet.exists():
        began = time.process_time()
        bar = Progress(f"diffusion, {name}", 1, unit="student")
        before = judge.errors(untrained(name, options["seed"]))
        flags = {"warmup_steps": options["warmup"], "batch_size": options["batch"], "save_interval": 10}
        run, _ = train_student(name, store.folder, steps=options["steps"], seed=options["seed"], **flags)
        after = judge.errors(run.best)
        pictures.picture(sheet, judge.sheet(run.best))
        seconds = time.process_time() - began
        row = {"student": name, "before": before, "after": after, "cpu_seconds": seconds}
        store.put(name, row)
        bar.close(f"noise error {before['teacher_error']:.3f} -> {after['teacher_error']:.3f}")
    shutil.copyfile(sheet, context.folder / f"{name}.png")
    return row


def copy_sheets(rows: list[dict], folder: Path) -> None:
    """The recorded sheets, beside the ones drawn now."""
    from ..digits_diffusion.record import RESULTS, SHEET

    for model in dict.fromkeys(row["model"] for row in rows if row["model"] != "real"):
        shutil.copyfile(RESULTS / SHEET.format(model), folder / f"recorded_{model}.png")
