"""What a run writes down: lines on stderr, steps.csv, TensorBoard."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..extras import need
from ..files import write_atomic

STEPS = "steps.csv"


class Log:
    """Only the first process says anything; a bar where stderr is a terminal.

    Raises: ImportError when TensorBoard is asked for and not installed.
    """

    def __init__(self, primary: bool, report_to: str = "none") -> None:
        self.primary = primary
        self.report = primary and report_to == "tensorboard"
        self.bar: tqdm | None = None
        self.file: Path | None = None
        self.board: Any = None
        if self.report:
            need("tensorboard", "track")

    def say(self, text: str) -> None:
        if self.primary:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def open(self, folder: Path, columns: tuple[str, ...], made: int) -> None:
        """Write into ``folder``, after the rows up to update ``made`` that are there already.

        columns: of steps.csv; the first counts the updates.
        """
        if not self.primary:
            return
        self.file, self.columns = folder / STEPS, columns
        keep_rows(self.file, columns, made)
        if self.report:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=made + 1)

    def start(self, name: str, total: int, made: int, unit: str = "step") -> None:
        self.end()
        if self.primary and sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=made, desc=name, leave=False, unit=unit)

    def advance(self, number: int = 1) -> None:
        if self.bar is not None:
            self.bar.update(number)

    def end(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def row(self, row: Mapping[str, float]) -> None:
        """One row of steps.csv: the columns given to ``open``."""
        if self.file is None:
            return
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(",".join(repr(row[name]) for name in self.columns) + "\n")
        if self.board is not None:
            for name, value in self.scalars(row).items():
                self.board.add_scalar(name, value, row[self.columns[0]])

    def scalars(self, row: Mapping[str, float]) -> dict[str, float]:
        """What TensorBoard gets of a row, by tag."""
        return {f"train/{name}": row[name] for name in self.columns[1:]}

    def picture(self, name: str, pixels: Any, step: int) -> None:
        """(H, W, C) uint8 pixels for TensorBoard."""
        if self.board is not None:
            self.board.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        self.end()
        if self.board is not None:
            self.board.close()


def keep_rows(path: Path, columns: tuple[str, ...], made: int) -> None:
    """steps.csv up to update ``made``, without what a killed run wrote after its checkpoint."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    rows = [row for row in csv.reader(io.StringIO(text)) if len(row) == len(columns) and row[0].isdigit()]
    kept = [",".join(row) for row in rows if int(row[0]) <= made]
    write_atomic(path, "\n".join([",".join(columns), *kept, ""]).encode())
