"""Files of LiDAR points: KITTI's .bin, nuScenes' .pcd.bin, .npy and .pcd; and the text beside them.

A row is x, y, z in metres, then what the file holds beside them. Every error names the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .pcd import read_pcd

SUFFIXES = (".bin", ".npy", ".pcd")
BIN_VALUES = {".pcd.bin": 5, ".bin": 4}  # nuScenes: x, y, z, intensity, ring; KITTI: x, y, z, reflectance


def read_points(path: str | Path, values: int | None = None) -> Tensor:
    """The points of a file, (N, values) float32, in the file's order.

    Args:
        path: ``.bin`` and ``.pcd.bin`` are rows of little-endian float32; ``.npy`` is an array (N, values);
            ``.pcd`` is version 0.7, its columns x, y, z, intensity (or reflectance), then others in order.
        values: numbers a point. None: 4 in a .bin, 5 in a .pcd.bin, what the file holds in the other two.
            A .pcd may hold more: its first ``values`` columns are taken.
    Raises: FileNotFoundError; ValueError for a suffix that is not one of these, and for a file that is empty,
        cut short, of another width, or holds NaN or infinite values.
    """
    path = Path(path)
    if values is not None and values < 3:
        raise ValueError(f"read_points: values must be at least 3 (x, y, z), got {values}")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: a file of points must end in {', '.join(SUFFIXES)}, got {path.name!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of points")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file of points is empty (0 bytes)")
    if path.suffix == ".bin":
        rows = _read_bin(path, values)
    elif path.suffix == ".npy":
        rows = _read_npy(path, values)
    else:
        rows = _read_pcd(path, values)
    check_finite(path, rows)
    return torch.from_numpy(rows)


def _read_bin(path: Path, values: int | None) -> np.ndarray:
    if values is None:
        values = next(count for ending, count in BIN_VALUES.items() if path.name.endswith(ending))
    size, row = path.stat().st_size, 4 * values
    if size % row:
        raise ValueError(
            f"{path}: must hold rows of {values} float32 ({row} bytes each), got {size} bytes: "
            f"{size % row} too many, so it is cut short or has another number of values a point"
        )
    return np.fromfile(path, dtype="<f4").reshape(-1, values).astype(np.float32, copy=False)


def _read_npy(path: Path, values: int | None) -> np.ndarray:
    try:
        rows = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        reason = str(error).partition(". If you trust the file")[0]  # numpy goes on with how to run a pickle
        raise ValueError(f"{path}: is cut short or no .npy array of numbers: {reason}") from error
    wanted = "(N, 3 or more)" if values is None else f"(N, {values})"
    good = isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.shape[1] >= 3 and rows.dtype.kind in "fiu"
    if not good or (values is not None and rows.shape[1] != values):
        got = f"{rows.shape} {rows.dtype}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise ValueError(f"{path}: must hold numbers {wanted}, got {got}")
    if len(rows) == 0:
        raise ValueError(f"{path}: the file of points is empty (0 rows)")
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which is refused
        return np.ascontiguousarray(rows, dtype=np.float32)


def _read_pcd(path: Path, values: int | None) -> np.ndarray:
    rows = read_pcd(path)
    if len(rows) == 0:
        raise ValueError(f"{path}: the file of points is empty (0 rows)")
    if values is not None and rows.shape[1] < values:
        raise ValueError(f"{path}: must hold {values} values a point, got {rows.shape[1]}")
    return np.ascontiguousarray(rows[:, :values])


def read_text(path: Path) -> str:
    """A text file's content, less a byte-order mark.

    Raises: OSError; ValueError naming the file for one that is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: must be a UTF-8 text, got the byte {error.object[error.start]:#04x}"
        ) from error


def first_repeated(names: Sequence[str]) -> str | None:
    """The first name that stood in the list before, None if all are different."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def nearest_name(name: str, known: Sequence[str]) -> str | None:
    """The name of ``known`` that ``name`` would be in other cases: "car" -> "Car". None if there is none, or
    it is ``name`` itself."""
    return next((each for each in known if each != name and each.casefold() == name.casefold()), None)


def check_finite(path: Path, rows: np.ndarray) -> None:
    """Raises: ValueError that counts the rows with NaN or infinite values and shows the first."""
    bad = ~np.isfinite(rows).all(1)
    if bad.any():
        first = int(bad.argmax())
        shown = ", ".join(f"{value:g}" for value in rows[first])
        raise ValueError(
            f"{path}: {int(bad.sum())} of {len(rows)} points hold NaN or infinite values; "
            f"the first is row {first}: ({shown})"
        )
