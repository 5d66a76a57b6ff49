"""What a run has reached, on disk: every file is written to a temporary name and renamed.

A part's folder holds ``settings.json`` (what the results were made with), ``records.json`` (one entry a
finished step) and whatever checkpoints the part writes. Other settings start the part anew.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..files import read_json, remove_leftovers, write_json


class PartStore:
    """The folder of one part, for one set of settings (JSON values)."""

    def __init__(self, folder: Path, settings: dict) -> None:
        self.folder = folder
        self._records_file = folder / "records.json"
        settings = json.loads(json.dumps(settings))  # tuples become lists, as they come back from the file
        if read_json(folder / "settings.json") != settings:
            shutil.rmtree(folder, ignore_errors=True)
            write_json(folder / "settings.json", settings)
        self._records: dict[str, Any] = read_json(self._records_file) or {}
        remove_leftovers(folder)

    def get(self, key: str) -> Any:
        """The record stored as ``key``, None when that step has not finished."""
        return self._records.get(key)

    def put(self, key: str, record: Any) -> None:
        self._records[key] = record
        write_json(self._records_file, self._records)

    def path(self, name: str) -> Path:
        return self.folder / name


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold ``folder`` against a second run; the system lets go of it even when this process is killed.

    Raises: ValueError when another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # no such lock here: two runs at a time stay the user's affair
        yield
        return
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another run is writing to {folder}; choose another --output") from error
        yield
