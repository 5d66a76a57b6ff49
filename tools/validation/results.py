"""The table of results: timm's columns, whole after every model, so that a kill loses nothing."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from ..files import write_atomic


def columns(topk: list[int]) -> list[str]:
    """timm's, then the checkpoint, the loss and the rate."""
    tops = [name for k in topk for name in (f"top{k}", f"top{k}_err")]
    timms = ["model", *tops, "param_count", "img_size", "crop_pct", "interpolation"]
    return [*timms, "checkpoint", "loss", "samples_per_sec"]


class Results:
    """Rows of a file, old and new; without a file, of memory.

    Args:
        path: csv or json; what is in it stays, new rows follow.
    Raises: ValueError when the file holds something else; OSError when it cannot be written, before any work.
    """

    def __init__(self, path: Path | None, form: str, topk: list[int]) -> None:
        self.path, self.form, self.columns = path, form, columns(topk)
        self.rows: list[dict[str, Any]] = []
        if path is None:
            return
        if path.exists():
            self.rows = self.read(path)
        self.write()

    def read(self, path: Path) -> list[dict[str, Any]]:
        if path.is_dir():
            raise IsADirectoryError(f"--results-file must be a file, {path} is a folder")
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            return []
        try:
            rows = json.loads(text) if self.form == "json" else list(csv.DictReader(io.StringIO(text)))
        except ValueError as error:
            raise ValueError(f"--results-file: {path} must be {self.form}: {error}") from error
        names = csv.DictReader(io.StringIO(text)).fieldnames if self.form == "csv" else None
        if names is None:
            alike = isinstance(rows, list) and all(
                isinstance(r, dict) and list(r) == self.columns for r in rows
            )
        else:
            alike = list(names) == self.columns
        if not alike:
            raise ValueError(f"--results-file: {path} must have the columns {', '.join(self.columns)}")
        return rows

    def has(self, model: str, checkpoint: Path | None) -> bool:
        wanted = (model, str(checkpoint or ""))
        return any((row["model"], row["checkpoint"] or "") == wanted for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append({name: row[name] for name in self.columns})
        self.write()

    def write(self) -> None:
        if self.path is None:
            return
        if self.form == "json":
            write_atomic(self.path, (json.dumps(self.rows, indent=2) + "\n").encode())
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomic(self.path, text.getvalue().encode())
