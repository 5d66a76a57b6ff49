"""What a run writes down: log lines, steps.csv, summary.csv, TensorBoard, and the picture of the curve."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm.utils import update_summary
from tqdm import tqdm

from ..extras import need
from ..files import write_atomic

STEP_COLUMNS = ("steps", "epoch", "step", "loss", "lr")


class Log:
    """Lines on stderr, with a bar where that is a terminal; only the first process says anything.

    Raises: ImportError when TensorBoard is asked for and not installed.
    """

    def __init__(self, primary: bool, report_to: str = "none") -> None:
        self.primary = primary
        self.bar: tqdm | None = None
        self.folder: Path | None = None
        self.board: Any = None
        self.report = primary and report_to == "tensorboard"
        if self.report:
            need("tensorboard", "track")

    def say(self, text: str) -> None:
        if self.primary:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def open(self, folder: Path, steps_made: int, history: Sequence[dict]) -> None:
        """Write into ``folder``, after what is already there up to ``steps_made`` and ``history``."""
        if not self.primary:
            return
        self.folder = folder
        keep_rows(folder / "steps.csv", steps_made)
        write_summary(folder / "summary.csv", history)
        if self.report:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=steps_made)

    def start_epoch(self, epoch: int, steps: int, made: int) -> None:
        if self.primary and sys.stderr.isatty():
            self.bar = tqdm(total=steps, initial=made, desc=f"epoch {epoch}", leave=False, unit="step")

    def advance(self) -> None:
        if self.bar is not None:
            self.bar.update()

    def end_epoch(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def step(self, row: dict[str, float]) -> None:
        """One row of steps.csv; ``row`` has STEP_COLUMNS."""
        if self.folder is None:
            return
        line = ",".join(repr(row[name]) for name in STEP_COLUMNS)
        with open(self.folder / "steps.csv", "a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self.board is not None:
            self.board.add_scalar("train/loss", row["loss"], row["steps"])
            self.board.add_scalar("lr", row["lr"], row["steps"])

    def epoch(self, row: dict[str, float], steps_made: int) -> None:
        """One row of summary.csv."""
        if self.folder is None:
            return
        train, evaluation = parts_of(row)
        update_summary(row["epoch"], train, evaluation, self.folder / "summary.csv", lr=row["lr"])
        if self.board is not None:
            for name, value in (evaluation | {"train_loss": train["loss"]}).items():
                self.board.add_scalar(f"epoch/{name}", value, steps_made)
            self.board.flush()

    def close(self) -> None:
        self.end_epoch()
        if self.board is not None:
            self.board.close()


def parts_of(row: dict[str, float]) -> tuple[dict, dict]:
    """The training and the validation figures of a row of summary.csv."""
    parts = []
    for prefix in ("train_", "eval_"):
        parts.append({k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)})
    return parts[0], parts[1]


def write_summary(path: Path, history: Sequence[dict]) -> None:
    """summary.csv as ``history`` says; epochs that a killed run wrote after its checkpoint are gone."""
    text = io.StringIO()
    if history:
        writer = csv.DictWriter(text, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)
    write_atomic(path, text.getvalue().encode())


def keep_rows(path: Path, steps_made: int) -> None:
    """steps.csv up to ``steps_made``, without what a killed run wrote after its checkpoint."""
    header = ",".join(STEP_COLUMNS)
    lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.is_file() else []
    whole = [line for line in lines if line.count(",") == len(STEP_COLUMNS) - 1 and line[:1].isdigit()]
    kept = [line for line in whole if int(line.partition(",")[0]) <= steps_made]
    write_atomic(path, "\n".join([header, *kept, ""]).encode())


def draw_curve(path: Path, history: Sequence[dict], title: str) -> None:
    """Loss and accuracy over the epochs: ``path``, and ``NAME.dark.png`` beside it for dark screens.

    Raises: ImportError without matplotlib.
    """
    from ..demo.pictures import chart

    epochs = [row["epoch"] + 1 for row in history]

    def draw(axes: Any, colours: dict) -> None:
        axes.xaxis.get_major_locator().set_params(integer=True)
        losses = [row["train_loss"] for row in history]
        lines = axes.plot(epochs, losses, color=colours["rala"], marker=".", label="training loss")
        if "eval_top1" in history[0]:
            right = axes.twinx()
            accuracies = [row["eval_top1"] for row in history]
            colour = colours["nala"]
            lines += right.plot(epochs, accuracies, color=colour, marker=".", label="validation, top-1 in %")
            right.tick_params(axis="y", colors=colour, labelsize=9.5)
            for side in right.spines.values():
                side.set_visible(False)
        axes.legend(handles=lines, loc="center right", frameon=False, fontsize=10)

    chart(path, draw, "epoch", "loss", title)
