"""KITTI's text files and the size of its pictures, as plain values."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .files import first_repeated, nearest_name, read_text
from .kitti_camera import Camera

PICTURE_SIZE = (1242, 375)  # most of KITTI's pictures; taken where there is no picture to look at
TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare")
MATRICES = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)}
# columns of a label line behind the type; a 16th column of detections is the score
COLUMNS = ("truncation", "occlusion", "alpha", *("left", "top", "right", "bottom"),
           *("height", "width", "length"), *("x", "y", "z"), "ry")  # fmt: skip


def read_names(path: Path) -> list[str]:
    """The frames of a split, in order. Raises: FileNotFoundError; ValueError for none, or one named twice."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such list of frames")
    names = read_text(path).split()
    if not names:
        raise ValueError(f"{path}: must name at least one frame, got none")
    if twice := first_repeated(names):
        raise ValueError(f"{path}: must name each frame once, got {twice} again")
    return names


def read_labels(path: Path) -> list[dict[str, Any]]:
    """One dictionary a line: ``name``, and a number for each of ``COLUMNS`` (and ``score``).

    Raises: FileNotFoundError; ValueError naming the line that has too few columns, no finite numbers, or one
        of ``TYPES`` in other cases ("car"), which would be passed by as a type of its own.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of labels")
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        name, *words = line.split()
        if meant := nearest_name(name, TYPES):
            raise ValueError(f"{path}: line {number} must name the type {meant}, got {name!r}")
        columns = (*COLUMNS, "score")[: len(words)]
        if not len(COLUMNS) <= len(words) <= len(COLUMNS) + 1:
            wanted = f"{len(COLUMNS) + 1} columns, {len(COLUMNS) + 2} with a score"
            raise ValueError(f"{path}: line {number} must have {wanted}, got {len(words) + 1}")
        rows.append({"name": name, **dict(zip(columns, _numbers(path, number, words), strict=True))})
    return rows


def _numbers(path: Path, number: int, words: list[str]) -> list[float]:
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise ValueError(f"{path}: line {number} must hold numbers, {error}") from error
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{path}: line {number} must hold finite numbers, got {' '.join(words)}")
    return values


def read_calibration(path: Path) -> dict[str, list[float]]:
    """``MATRICES``, each row by row.

    Raises: FileNotFoundError; ValueError for one that is missing or short, or rotations that cannot be
        undone.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such calibration file")
    found: dict[str, list[float]] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        name, _, rest = line.partition(":")
        if name in MATRICES:
            found[name] = _numbers(path, number, rest.split())
    for name, (rows, columns) in MATRICES.items():
        if len(found.get(name, ())) != rows * columns:
            got = f"{len(found[name])} numbers" if name in found else "no such line"
            raise ValueError(f"{path}: must have {name} with {rows * columns} numbers, got {got}")
    for name in ("R0_rect", "Tr_velo_to_cam"):
        rotation = np.array(found[name]).reshape(MATRICES[name])[:, :3]
        if np.linalg.matrix_rank(rotation) < 3:
            raise ValueError(f"{path}: {name} must turn three axes, got {found[name]}")
    return {name: found[name] for name in MATRICES}


def read_picture_size(path: Path) -> tuple[int, int] | None:
    """Width and height from a PNG's header; None when there is no such file.

    Raises: ValueError for a file that does not begin as a PNG does.
    """
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        head = file.read(24)
    if len(head) < 24 or not head.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"{path}: must be a PNG picture, its header is not one's")
    return struct.unpack(">II", head[16:24])


def make_camera(matrices: dict[str, list[float]], size: tuple[int, int]) -> Camera:
    p2, r0, velo_to_cam = (
        torch.tensor(matrices[name], dtype=torch.float64).reshape(shape) for name, shape in MATRICES.items()
    )
    return Camera(p2=p2, r0=r0, velo_to_cam=velo_to_cam, size=tuple(size))
