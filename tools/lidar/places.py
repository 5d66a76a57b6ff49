"""Where a command writes: what is said when that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing_to(flag: str, place: Path) -> Iterator[None]:
    """A full disk, of which the system's error names no file, is told by the flag and the place.

    Raises: OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:  # ours, or it has a name
            raise
        raise OSError(f"{flag}: cannot write to {place}: {error.strerror}") from error
