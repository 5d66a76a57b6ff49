"""Folders of pictures with captions or classes, and a picture as the VAE takes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
METADATA = "metadata.jsonl"
CAPTION_KEYS = ("text", "caption")


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture and what it shows: a caption, or the number of a class."""

    path: Path
    content: str | int


def list_entries(dataset: str, folder: Path) -> list[Entry]:
    """The pictures of ``--data-dir`` in a fixed order.

    Raises: FileNotFoundError, ValueError naming what is missing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"--data-dir must be a folder, {folder} is none")
    entries = list(classes(folder) if dataset == "classes" else captions(folder))
    if not entries:
        raise ValueError(f"--data-dir must hold pictures ({' '.join(SUFFIXES)}), {folder} has none")
    return entries


def pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def classes(folder: Path) -> Iterator[Entry]:
    """A folder a class, numbered in the order of their names."""
    for number, place in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        for path in pictures_in(place):
            yield Entry(path, number)


def captions(folder: Path) -> Iterator[Entry]:
    """``metadata.jsonl`` (file_name, and text or caption), or NAME.txt beside NAME.png."""
    metadata = folder / METADATA
    if metadata.is_file():
        yield from captions_of_metadata(metadata)
        return
    for path in pictures_in(folder):
        text = path.with_suffix(".txt")
        if not text.is_file():
            raise FileNotFoundError(
                f"--data-dir must have a caption a picture, in {METADATA} or a .txt: {text} is missing"
            )
        yield Entry(path, text.read_text(encoding="utf-8").strip())


def captions_of_metadata(metadata: Path) -> Iterator[Entry]:
    for number, line in enumerate(metadata.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name = row["file_name"]
            caption = next(row[key] for key in CAPTION_KEYS if key in row)
        except (ValueError, KeyError, TypeError, StopIteration):
            raise ValueError(
                f"{metadata}:{number} must be JSON with file_name and text, got {line[:80]!r}"
            ) from None
        path = metadata.parent / name
        if not path.is_file():
            raise FileNotFoundError(f"{metadata}:{number}: {path} is missing")
        yield Entry(path, str(caption))


def digest(entries: Sequence[Entry], folder: Path) -> str:
    """Changes with the names, the sizes in bytes, the captions and the classes."""
    found = hashlib.sha256()
    for entry in entries:
        row = (str(entry.path.relative_to(folder)), entry.path.stat().st_size, entry.content)
        found.update(repr(row).encode())
    return found.hexdigest()


@dataclass(frozen=True, slots=True)
class Prepared:
    """Args: pixels: (3, side, side) from -1 to 1. sizes: (6,) height, width, top, left, side, side."""

    pixels: Tensor
    sizes: Tensor


def read_picture(path: Path, side: int, resize: str) -> Prepared:
    """A square picture.

    Args:
        resize: "squash" to the square, bicubic; "crop": the short side, bilinear, then the centre;
            "halve-crop": halved by areas while it is twice too large, then the short side, bicubic, centre.
    Raises: OSError naming the file.
    """
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"cannot read {path}: {error}") from error
    width, height = picture.size
    top = left = 0
    if resize == "squash":
        picture = picture.resize((side, side), Image.Resampling.BICUBIC)
    else:
        picture = short_side(picture, side, halve=resize == "halve-crop")
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 127.5 - 1
    return Prepared(pixels, torch.tensor([height, width, top, left, side, side], dtype=torch.float32))


def short_side(picture: Image.Image, side: int, halve: bool) -> Image.Image:
    while halve and min(picture.size) >= 2 * side:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = side / min(picture.size)
    size = (max(side, round(picture.width * scale)), max(side, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BICUBIC if halve else Image.Resampling.BILINEAR)
