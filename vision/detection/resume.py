"""What mmengine's checkpoints hold beside tensors, so that ``torch.load(weights_only=True)`` reads them.

A checkpoint of mmengine keeps the history of every logged value: ``HistoryBuffer`` objects with numpy arrays
in them and references to their own methods. torch refuses these by default since 2.6, and mmengine 0.10.7
cannot resume what it wrote. Exactly these are allowed; a file with anything else is refused as before.
"""

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from numpy._core import multiarray

METHODS = ("min", "max", "current", "mean")


def history_method(owner: object, name: object) -> object:
    """Stands for ``getattr`` in a checkpoint: gives the methods that a HistoryBuffer keeps, and nothing else.

    Raises: ValueError for any other object or attribute.
    """
    if owner is not HistoryBuffer or name not in METHODS:
        raise ValueError(f"checkpoint must ask for methods of HistoryBuffer only, got {name!r} of {owner!r}")
    return getattr(HistoryBuffer, name)


def allowed() -> list[object]:
    """Classes, and functions with the name that they have in the files (numpy below 2 had others)."""
    dtypes = [type(np.dtype(kind)) for kind in (np.float64, np.int64)]
    functions = ((multiarray._reconstruct, "_reconstruct"), (multiarray.scalar, "scalar"))
    named = [(f, f"numpy.{core}.multiarray.{name}") for f, name in functions for core in ("_core", "core")]
    return [HistoryBuffer, np.ndarray, np.dtype, *dtypes, *named, (history_method, "builtins.getattr")]


def allow() -> None:
    """Tells torch; done when ``linzoo.vision.detection`` is imported."""
    torch.serialization.add_safe_globals(allowed())
