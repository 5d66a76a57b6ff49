"""What a training of vision models writes down besides: summary.csv, a row an epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from timm.utils import update_summary

from ..files import write_atomic
from ..runs import log

STEP_COLUMNS = ("steps", "epoch", "step", "loss", "lr")


class Log(log.Log):
    """See ``runs.log``."""

    folder: Path | None = None

    def open_run(self, folder: Path, steps_made: int, history: Sequence[dict]) -> None:
        """Write into ``folder``, after what is already there up to ``steps_made`` and ``history``."""
        if self.primary:
            self.folder = folder
            write_summary(folder / "summary.csv", history)
        self.open(folder, STEP_COLUMNS, steps_made)

    def scalars(self, row: Mapping[str, float]) -> dict[str, float]:
        return {"train/loss": row["loss"], "lr": row["lr"]}

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
