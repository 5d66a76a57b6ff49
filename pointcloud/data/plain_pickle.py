"""Pickles of plain containers and numpy arrays, read with every other name refused.

A pickle can call any function while it is read. Here only the names that numpy's arrays, dtypes and scalars
are made of are looked up; any other ends the reading before anything is called.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # bytes in protocol 2
    *(
        (f"{module}.{part}", name)
        for module in ("numpy.core", "numpy._core")
        for part, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    ),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which is neither a container nor numpy's"
            )
        module = module.replace("numpy.core", "numpy._core")
        return super().find_class(module, name)


def read_plain_pickle(path: str | Path) -> Any:
    """Raises: FileNotFoundError; ValueError for a file that is damaged or holds anything else."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    with open(path, "rb") as file:
        try:
            return _PlainUnpickler(file).load()
        except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError,
                ImportError, MemoryError, OverflowError, UnicodeDecodeError) as error:  # fmt: skip
            raise ValueError(f"{path}: is no pickle of plain values and arrays: {error}") from error
