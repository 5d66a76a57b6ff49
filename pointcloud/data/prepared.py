"""What ``linzoo prepare-lidar`` leaves beside a data set: the facts of every frame, and objects to paste.

A data set reads its facts from there when they were gathered with the same settings, else from its own
files. They are not compared with those files: after a change of labels, prepare again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records import Frame

FOLDER = "linzoo"
FORMAT = 1


class DamagedFacts(ValueError):
    """A file of facts cannot be read. ``file``: its path."""

    def __init__(self, file: Path, reason: Exception) -> None:
        super().__init__(f"{file}: is damaged ({reason}); delete it and prepare the data set again")
        self.file = file


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The files of one split.

    folder: usually ``linzoo`` in the data set's own.
    settings: all that the facts depend on, of plain values.
    """

    folder: Path
    split: str
    settings: Mapping[str, Any]

    @property
    def facts_file(self) -> Path:
        return self.folder / f"frames_{self.split}.json"

    @property
    def paste_file(self) -> Path:
        return self.folder / f"paste_{self.split}.safetensors"

    @property
    def parts_folder(self) -> Path:
        """Where a preparation that is not finished lies."""
        return self.folder / f"parts_{self.split}"

    def stamp(self) -> dict[str, Any]:
        """The settings as they are compared."""
        return json.loads(json.dumps({"format": FORMAT, **self.settings}))

    def content(self, records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> bytes:
        """Of the file of facts: a record a frame, in the data set's order, and what the preparation found."""
        return json.dumps({"settings": self.stamp(), "summary": summary, "frames": list(records)}).encode()

    def read(self) -> list[dict[str, Any]] | None:
        """The records; None when there are none, or none for these settings.

        Raises: DamagedFacts, a ValueError.
        """
        content = self._read()
        return None if content is None else content["frames"]

    def read_summary(self) -> dict[str, Any] | None:
        """What the preparation found. Raises and None as ``read``."""
        content = self._read()
        return None if content is None else content["summary"]

    def _read(self) -> dict[str, Any] | None:
        if not self.facts_file.is_file():
            return None
        try:
            content = json.loads(self.facts_file.read_text(encoding="utf-8"))
            if not {"frames", "summary"} <= content.keys():
                raise ValueError("it has no frames")
            if content["settings"] != self.stamp():
                return None
            whole = isinstance(content["summary"], dict) and all("name" in row for row in content["frames"])
            if not whole:
                raise ValueError("its frames have no names")
            return content
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedFacts(self.facts_file, error) from error


class RecordedFrames:
    """Data sets whose index holds all the facts of every frame. The attributes are set by who inherits."""

    folder: Path
    split: str
    prepared: Prepared

    def take_records(self, read: Callable[[], list[dict[str, Any]]]) -> None:
        """The prepared facts, else those that ``read`` finds in the data set's own files.

        Raises: ValueError when there are none.
        """
        stored = self.prepared.read()
        self._is_prepared = stored is not None
        self._records = read() if stored is None else stored
        if not self._records:
            raise ValueError(f"{self.folder}: split {self.split!r} must hold at least one frame, got none")

    @property
    def paste_file(self) -> Path | None:
        """The prepared objects, None if there are none."""
        file = self.prepared.paste_file
        return file if self._is_prepared and file.is_file() else None

    def __len__(self) -> int:
        return len(self._records)

    def record(self, index: int) -> dict[str, Any]:
        """The facts of a frame as plain values, without its points."""
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in 0 .. {len(self) - 1}, got {index}")
        return self._records[index]

    def prepared_record(self, index: int, frame: Frame) -> dict[str, Any]:
        """The facts to be stored: ``record``, which lacks nothing that the frame has."""
        return self.record(index)
