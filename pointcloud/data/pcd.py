"""Point Cloud Data files, version 0.7: ascii, binary, and binary compressed with LZF.

Source: "The PCD (Point Cloud Data) file format", pointclouds.org; LZF as its compressor writes it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

INTENSITY = ("intensity", "reflectance", "i")
TYPES = {("F", 4): "<f4", ("F", 8): "<f8"} | {
    (letter, size): f"<{letter.lower()}{size}" for letter in "IU" for size in (1, 2, 4, 8)
}
WORDS = ("VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
PADDING = "_"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What stands above the data: a dtype and a count for each field, the points, and how they are stored."""

    fields: tuple[str, ...]
    dtypes: tuple[str, ...]
    counts: tuple[int, ...]
    points: int
    data: str

    def record(self) -> np.dtype:
        """One point, as ``binary`` lays it out."""
        columns = zip(self.dtypes, self.counts, strict=True)
        return np.dtype([(f"f{i}", dtype, (count,)) for i, (dtype, count) in enumerate(columns)])

    def order(self) -> list[int]:
        """Fields in the order they are returned: x, y, z, intensity, the others."""
        lower = [name.lower() for name in self.fields]
        first = [lower.index(axis) for axis in "xyz"]
        first += [i for i, name in enumerate(lower) if name in INTENSITY]
        return first + [i for i, name in enumerate(lower) if i not in first and name != PADDING]


def read_pcd(path: Path) -> np.ndarray:
    """(N, values) float32: x, y, z, intensity if there is one, then the other fields in the file's order.

    Raises: ValueError naming the file, for a header or data that do not follow the format.
    """
    content = path.read_bytes()
    try:
        header, start = read_header(content)
        read = {"ascii": _ascii, "binary": _binary, "binary_compressed": _compressed}[header.data]
        columns = read(header, content[start:])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    rows = [columns[i].reshape(header.points, header.counts[i]) for i in header.order()]
    return np.concatenate(rows, 1, dtype=np.float32, casting="unsafe")


def read_header(content: bytes) -> tuple[Header, int]:
    """The header, and where the data begin."""
    words: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in words:
        end = content.find(b"\n", start)
        if end < 0:
            raise ValueError("the PCD header is cut short: it has no line DATA")
        line = content[start:end].decode("ascii", errors="replace").strip()
        start = end + 1
        if not line or line.startswith("#"):
            continue
        name, *values = line.split()
        if name not in WORDS:
            raise ValueError(f"a PCD header has lines {', '.join(WORDS)}, got {line[:40]!r}")
        words[name] = values
    missing = [name for name in ("FIELDS", "SIZE", "TYPE", "WIDTH", "HEIGHT") if name not in words]
    if missing:
        raise ValueError(f"the PCD header lacks {', '.join(missing)}")
    return _header(words), start


def _header(words: dict[str, list[str]]) -> Header:
    fields = tuple(words["FIELDS"])
    sizes, counts = _whole(words, "SIZE"), _whole(words, "COUNT", [1] * len(fields))
    kinds = words["TYPE"]
    if not len(fields) == len(sizes) == len(counts) == len(kinds):
        raise ValueError(
            f"FIELDS, SIZE, TYPE and COUNT must have as many entries, got {len(fields)}, {len(sizes)}, "
            f"{len(kinds)}, {len(counts)}"
        )
    unknown = [pair for pair in zip(kinds, sizes, strict=True) if pair not in TYPES]
    if unknown:
        raise ValueError(f"TYPE and SIZE must be F 4/8 or I, U 1/2/4/8, got {unknown[0][0]} {unknown[0][1]}")
    lower = [name.lower() for name in fields]
    if lacking := [axis for axis in "xyz" if axis not in lower]:
        raise ValueError(f"FIELDS must have x, y, z, got {' '.join(fields)}: no {', '.join(lacking)}")
    (width,), (height,) = (_whole(words, name)[:1] or [0] for name in ("WIDTH", "HEIGHT"))
    points = _whole(words, "POINTS", [width * height])
    if points != [width * height] or points[0] < 0:
        raise ValueError(f"POINTS must be WIDTH x HEIGHT = {width * height}, got {points}")
    data = " ".join(words["DATA"])
    if data not in ("ascii", "binary", "binary_compressed"):
        raise ValueError(f"DATA must be ascii, binary or binary_compressed, got {data!r}")
    dtypes = tuple(TYPES[pair] for pair in zip(kinds, sizes, strict=True))
    return Header(fields=fields, dtypes=dtypes, counts=tuple(counts), points=points[0], data=data)


def _whole(words: dict[str, list[str]], name: str, default: Sequence[int] = ()) -> list[int]:
    try:
        numbers = [int(word) for word in words[name]] if name in words else list(default)
    except ValueError as error:
        raise ValueError(f"{name} must be whole numbers, got {' '.join(words[name])!r}") from error
    if any(number < 0 for number in numbers):
        raise ValueError(f"{name} must not be negative, got {' '.join(words[name])!r}")
    return numbers


def _ascii(header: Header, data: bytes) -> list[np.ndarray]:
    width = sum(header.counts)
    lines = [line for line in data.decode("ascii", errors="replace").splitlines() if line.strip()]
    if len(lines) != header.points:
        raise ValueError(f"must hold {header.points} lines of points, got {len(lines)}")
    rows = [line.split() for line in lines]
    wrong = next((i for i, row in enumerate(rows) if len(row) != width), None)
    if wrong is not None:
        raise ValueError(f"a line must hold {width} values, got {len(rows[wrong])} in row {wrong}")
    table = np.array(rows, dtype=np.float64).reshape(header.points, width)
    return np.split(table, np.cumsum(header.counts)[:-1], axis=1)


def _binary(header: Header, data: bytes) -> list[np.ndarray]:
    record = header.record()
    wanted = header.points * record.itemsize
    if len(data) < wanted:
        raise ValueError(f"is cut short: {header.points} points need {wanted} bytes, got {len(data)}")
    rows = np.frombuffer(data, record, header.points)
    return [rows[name] for name in record.names]


def _compressed(header: Header, data: bytes) -> list[np.ndarray]:
    """All values of the first field, then of the second, ..., in one LZF block."""
    wanted = header.points * header.record().itemsize
    if len(data) < 8:
        raise ValueError(f"is cut short: compressed data begin with 8 bytes of sizes, got {len(data)}")
    packed, plain = struct.unpack("<II", data[:8])
    if plain != wanted:
        raise ValueError(f"{header.points} points need {wanted} bytes, the compressed block says {plain}")
    if len(data) < 8 + packed:
        raise ValueError(f"is cut short: {packed} compressed bytes, got {len(data) - 8}")
    raw = decompress_lzf(data[8 : 8 + packed], plain)
    columns, start = [], 0
    for dtype, count in zip(header.dtypes, header.counts, strict=True):
        columns.append(np.frombuffer(raw, dtype, header.points * count, start).reshape(-1, count))
        start += columns[-1].nbytes
    return columns


def decompress_lzf(packed: bytes, size: int) -> bytes:
    """LZF: runs of plain bytes, and copies of bytes that came up to 8192 earlier.

    Raises: ValueError when the block ends early, refers to before its start, or is not ``size`` bytes long.
    """
    out, at = bytearray(), 0
    try:
        while at < len(packed) and len(out) <= size:
            control = packed[at]
            at += 1
            if control < 32:  # a run of control + 1 bytes
                if at + control >= len(packed):
                    raise IndexError
                out += packed[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += packed[at]
                at += 1
            back = ((control & 31) << 8 | packed[at]) + 1
            at += 1
            _copy_back(out, back, length + 2)
    except IndexError:
        raise ValueError("the compressed block ends in the middle of a run") from None
    if len(out) != size:
        raise ValueError(f"the compressed block must give {size} bytes, got {len(out)}")
    return bytes(out)


def _copy_back(out: bytearray, back: int, length: int) -> None:
    start = len(out) - back
    if start < 0:
        raise ValueError("the compressed block refers to bytes before its start")
    pattern = out[start : start + length]
    out += (pattern * (length // len(pattern) + 1))[:length]  # a copy may reach into itself
