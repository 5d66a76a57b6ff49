"""Pictures to and from files of any size: written by strips, read when they are needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .writers import BAND, open_writer


def save_picture(path: str | os.PathLike, image: Any) -> None:
    """Write an RGB PIL image to a .png, .tif or .tiff file, whole or not at all."""
    width, height = image.size
    band = max(1, BAND // (3 * width))
    with open_writer(path, height, width) as writer:
        for top in range(0, height, band):
            writer.write(np.asarray(image.crop((0, top, width, min(top + band, height)))))


def resized(image: Any, height: int, width: int) -> Any:
    """A PIL image in RGB, bicubic at another size."""
    from PIL import Image

    return image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)


def open_picture(path: str | os.PathLike) -> Any:
    """A PIL image of a file that this package wrote; its pixels are read on first use.

    Pillow's guard against decompression bombs is for files from elsewhere and is not asked.
    """
    from PIL import PngImagePlugin, TiffImagePlugin

    png = Path(path).suffix.lower() == ".png"
    return PngImagePlugin.PngImageFile(path) if png else TiffImagePlugin.TiffImageFile(path)
