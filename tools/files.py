"""Files that are whole or not there: written to a temporary name, then renamed."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO


def write_atomic(path: Path, write: Callable[[BinaryIO], object] | bytes) -> None:
    """Write ``path`` so that whoever reads it finds the old content or the new one.

    Args:
        write: the content, or a function that writes it to the open file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            if isinstance(write, bytes):
                file.write(write)
            else:
                write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Removes what a process that was killed inside ``write_atomic`` left in ``folder``."""
    for file in folder.glob(".*.tmp"):
        file.unlink(missing_ok=True)


def check_writable(folder: Path, flag: str) -> None:
    """Makes the folder. Raises: OSError naming ``flag`` when it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{flag} must be a folder that can be written to, {folder}: {reason}") from error


def write_json(path: Path, content: Any) -> None:
    write_atomic(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """One JSON value a line."""
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def read_rows(path: Path) -> list[Any]:
    """What ``write_rows`` wrote; none where there is no file."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def read_json(path: Path) -> Any:
    """The content, or None when there is no such file or it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
