"""Reading ``torch.save``d files that hold numpy numbers beside tensors, without a full unpickler."""

from __future__ import annotations

import _codecs
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray

# What a numpy number or array is pickled by; numpy 1 wrote the same under ``numpy.core``.
ALLOWED = (
    np.ndarray,
    np.dtype,
    multiarray.scalar,
    multiarray._reconstruct,
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    _codecs.encode,
    *(type(np.dtype(name)) for name in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?")),
)


def not_yet_allowed() -> list[Any]:
    """``ALLOWED`` less what is registered: torch's context takes away at its end all that it was given."""
    registered = torch.serialization.get_safe_globals()
    return [entry for entry in ALLOWED if entry not in registered]


def official_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """The content of a checkpoint: tensors, numbers, strings, numpy arrays and plain containers of them.

    Raises: ValueError naming the file for one that is damaged, holds other classes (the first is named) or is
        no dict.
    """
    try:
        with torch.serialization.safe_globals(not_yet_allowed()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # zip, pickle and torch each have their own classes for what cannot be read
        refused = re.search(r"GLOBAL ([\w.]+) was not an allowed global", str(error))
        # torch's own words are about switches of torch.load, or about places in a file that was cut short
        damaged = "it is damaged, cut short, or was not written by torch.save"
        reason = f"it holds {refused[1]}, which is not read" if refused else damaged
        raise ValueError(f"checkpoint {path} cannot be read: {reason}") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"checkpoint {path} must hold a dict, got {type(content).__name__}")
    return content
