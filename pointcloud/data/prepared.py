"""What ``linzoo prepare-lidar`` leaves beside a data set: the facts of every frame, and objects to paste.

A data set reads its facts from there when they were gathered with the same settings, else from its own
files. They are not compared with those files: after a change of labels, prepare again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = "linzoo"
FORMAT = 1


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

    def content(self, records: Sequence[Mapping[str, Any]]) -> bytes:
        """Of the file of facts: one record a frame, in the data set's order."""
        return json.dumps({"settings": self.stamp(), "frames": list(records)}).encode()

    def read(self) -> list[dict[str, Any]] | None:
        """The records; None when there are none, or none for these settings.

        Raises: ValueError for a file that is damaged.
        """
        if not self.facts_file.is_file():
            return None
        try:
            content = json.loads(self.facts_file.read_text(encoding="utf-8"))
            return content["frames"] if content["settings"] == self.stamp() else None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.facts_file}: is damaged ({error}); prepare the data set again"
            ) from error
