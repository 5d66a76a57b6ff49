"""Pictures written by strips: the PNG or TIFF is never in memory as a whole.

    with open_writer("large.png", height=16384, width=16384) as writer:
        for rows in strips:          # uint8 (h, width, 3), top to bottom, any heights
            writer.write(rows)

The file appears under its name when it is complete: until then it is a hidden temporary beside it. TIFFs are
uncompressed (BigTIFF from 4 GB on). Reading with Pillow: above ``PIL.Image.MAX_IMAGE_PIXELS`` (89 million;
16384 x 8192 is 134 million) it warns of a decompression bomb, above twice that (16384 x 16384) it refuses:
raise it, or set it to None, before opening such a file.
"""

import os
import struct
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

BAND = 1 << 20  # bytes of pixels that the PNG writer filters at a time, however many rows it is given


class StripWriter(ABC):
    """Takes the rows of an RGB picture from top to bottom; ``close`` gives the file its name.

    As a context manager it closes at the end and, on an error, leaves no file.
    """

    def __init__(self, path: str | os.PathLike, height: int, width: int) -> None:
        for name, value in (("height", height), ("width", width)):
            if not isinstance(value, int | np.integer) or not 0 < value < 2**31:
                raise ValueError(f"{name} must be a positive number of pixels, got {value!r}")
        self.path, self.height, self.width = Path(path), int(height), int(width)
        self.rows = 0  # written so far
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO | None = open(self._temporary, "wb")  # noqa: SIM115 - lives as long as the writer
        try:
            self._begin()
        except BaseException:
            self.abort()
            raise

    def write(self, rows: np.ndarray) -> None:
        """Append rows: uint8 (h, width, 3). Raises: ValueError for another form, or for too many rows."""
        if self._file is None:
            raise ValueError(f"{self.path} is closed")
        rows = np.asarray(rows)
        if rows.dtype != np.uint8 or rows.ndim != 3 or rows.shape[1:] != (self.width, 3):
            raise ValueError(f"rows must be uint8 (h, {self.width}, 3), got {rows.dtype} {rows.shape}")
        if self.rows + len(rows) > self.height:
            raise ValueError(f"rows must be {self.height} in all, got {self.rows + len(rows)}")
        self._append(rows)
        self.rows += len(rows)

    def close(self) -> None:
        """Finish the file and give it its name. Raises: ValueError when rows are missing; no file is left."""
        if self._file is None:
            return
        try:
            if self.rows != self.height:
                raise ValueError(f"rows must be {self.height} in all, got {self.rows}")
            self._end()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temporary, self.path)
            self._file = None
        finally:
            self.abort()

    def abort(self) -> None:
        """Give up: nothing is left of the file. No effect once it is closed."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._temporary.unlink(missing_ok=True)

    @abstractmethod
    def _begin(self) -> None: ...

    @abstractmethod
    def _append(self, rows: np.ndarray) -> None: ...

    def _end(self) -> None:
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


class PngWriter(StripWriter):
    """8-bit RGB, deflated; each row by the filter whose differences are smallest in sum, as the standard
    recommends."""

    def _begin(self) -> None:
        self._file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0))
        self._deflate = zlib.compressobj(6, strategy=zlib.Z_FILTERED)
        self._above = np.zeros((1, self.width, 3), np.uint8)  # the row before the first is zero

    def _append(self, rows: np.ndarray) -> None:
        band = max(1, BAND // (3 * self.width))
        for start in range(0, len(rows), band):
            part = rows[start : start + band]
            above = np.concatenate([self._above, part[:-1]])
            data = self._deflate.compress(_filtered(part, above))
            if data:
                self._chunk(b"IDAT", data)
            self._above = part[-1:].copy()

    def _end(self) -> None:
        self._chunk(b"IDAT", self._deflate.flush())
        self._chunk(b"IEND", b"")

    def _chunk(self, kind: bytes, data: bytes) -> None:
        check = zlib.crc32(data, zlib.crc32(kind))
        self._file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check))


class TiffWriter(StripWriter):
    """8-bit RGB, uncompressed, in strips of about a megabyte; the header is tifffile's."""

    def _begin(self) -> None:
        try:
            import tifffile
        except ImportError as error:
            raise ImportError("TIFF needs tifffile: pip install tifffile, or write a .png") from error
        size = 3 * self.width * self.height
        with tifffile.TiffWriter(self._file, bigtiff=size > 2**32 - 2**25) as tiff:
            self._offset, _ = tiff.write(
                shape=(self.height, self.width, 3),
                dtype=np.uint8,
                photometric="rgb",
                rowsperstrip=max(1, BAND // (3 * self.width)),
                metadata=None,
                returnoffset=True,
            )
        self._file.seek(self._offset)

    def _append(self, rows: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(rows).data)


WRITERS = {".png": PngWriter, ".tif": TiffWriter, ".tiff": TiffWriter}


def open_writer(path: str | os.PathLike, height: int, width: int) -> StripWriter:
    """A writer of ``height`` x ``width`` RGB pixels to a .png, .tif or .tiff file.

    Raises: ValueError for another suffix or a size below 1; OSError when the folder cannot be written to.
    """
    return WRITERS[check_suffix(path, "path")](path, height, width)


def check_suffix(path: str | os.PathLike, name: str) -> str:
    """The suffix. Raises: ValueError when it is not that of a file we write."""
    suffix = Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise ValueError(f"{name} must end in {', '.join(WRITERS)}, got {str(path)!r}")
    return suffix


def _filtered(rows: np.ndarray, above: np.ndarray) -> bytes:
    """The rows as PNG stores them: (h, width, 3), and the row above each -> h times (filter, differences)."""
    x, up = rows.astype(np.int16), above.astype(np.int16)
    left, corner = (np.pad(a, ((0, 0), (1, 0), (0, 0)))[:, :-1] for a in (x, up))
    kinds = {0: 0, 1: left, 2: up, 3: (left + up) >> 1, 4: _paeth(left, up, corner)}
    best, cost = None, None
    for kind, prediction in kinds.items():
        difference = (x - prediction).astype(np.uint8)  # modulo 256
        row_cost = np.abs(difference.view(np.int8).astype(np.int16)).sum((1, 2))
        line = np.concatenate(
            [np.full((len(rows), 1), kind, np.uint8), difference.reshape(len(rows), -1)], axis=1
        )
        if best is None:
            best, cost = line, row_cost
        else:
            better = row_cost < cost
            best[better], cost[better] = line[better], row_cost[better]
    return best.tobytes()


def _paeth(left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Whichever of the three is nearest to left + up - corner, ties in this order: left, up, corner."""
    to_left, to_up, to_corner = np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)
    nearest = np.where(to_up <= to_corner, up, corner)
    return np.where((to_left <= to_up) & (to_left <= to_corner), left, nearest)
