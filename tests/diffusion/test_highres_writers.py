"""Strip writers: what is read back is what was written, whoever reads; a file is whole or not there."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linzoo.diffusion.highres import writers
from linzoo.diffusion.highres.writers import BAND, open_writer

SUFFIXES = (".png", ".tif", ".TIFF")


def pixels(height: int, width: int, kind: str) -> np.ndarray:
    if kind == "noise":
        return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 3 + x, x * x // 7, (y * y + 5 * x) // 3], -1).astype(np.uint8)


def write(path: Path, picture: np.ndarray, heights: tuple[int, ...]) -> None:
    with open_writer(path, *picture.shape[:2]) as writer:
        start = 0
        for height in heights:
            writer.write(picture[start : start + height])
            start += height


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["noise", "smooth"])
@pytest.mark.parametrize("heights", [(61,), (1, 0, 40, 20), (1,) * 61])
def test_pillow_reads_back_every_byte(tmp_path, suffix, kind, heights):
    picture = pixels(61, 47, kind)
    write(tmp_path / f"x{suffix}", picture, heights)
    with Image.open(tmp_path / f"x{suffix}") as file:
        assert file.mode == "RGB" and np.array_equal(np.asarray(file), picture)
    assert [p.name for p in tmp_path.iterdir()] == [f"x{suffix}"]


@pytest.mark.parametrize("suffix", (".png", ".tif"))
def test_a_picture_of_many_bands_is_read_back(tmp_path, suffix):
    picture = pixels(300, 3000, "smooth")  # 2.7 MB: more than one band of the PNG and one strip of the TIFF
    assert picture.nbytes > 2 * BAND
    write(tmp_path / f"x{suffix}", picture, (7, 250, 43))
    with Image.open(tmp_path / f"x{suffix}") as file:
        assert np.array_equal(np.asarray(file), picture)


def test_tifffile_reads_strips_of_about_a_megabyte(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    picture = pixels(300, 3000, "noise")
    write(tmp_path / "x.tif", picture, (300,))
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        assert np.array_equal(file.asarray(), picture)
        assert file.pages[0].rowsperstrip == BAND // 9000


def test_a_smooth_png_is_no_larger_than_pillows(tmp_path):
    skimage_data = pytest.importorskip("skimage.data")
    picture = skimage_data.astronaut()
    write(tmp_path / "ours.png", picture, (512,))
    Image.fromarray(picture).save(tmp_path / "pillow.png")
    assert (tmp_path / "ours.png").stat().st_size <= 1.02 * (tmp_path / "pillow.png").stat().st_size


@pytest.mark.parametrize("suffix", (".png", ".tif"))
def test_an_error_or_a_missing_row_leaves_the_old_file_and_nothing_else(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"), open_writer(path, 4, 5) as writer:
        writer.write(np.zeros((2, 5, 3), np.uint8))
        raise RuntimeError("stop")
    with pytest.raises(ValueError, match="rows must be 4 in all, got 2"), open_writer(path, 4, 5) as writer:
        writer.write(np.zeros((2, 5, 3), np.uint8))
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and path.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 5, 3)), r"rows must be uint8 \(h, 5, 3\), got float64 \(2, 5, 3\)"),
        (np.zeros((2, 4, 3), np.uint8), r"got uint8 \(2, 4, 3\)"),
        (np.zeros((2, 5), np.uint8), r"got uint8 \(2, 5\)"),
        (np.zeros((5, 5, 3), np.uint8), "rows must be 4 in all, got 5"),
    ],
)
def test_rows_of_another_form_are_refused(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message), open_writer(tmp_path / "x.png", 4, 5) as writer:
        writer.write(rows)
    assert not list(tmp_path.iterdir())


def test_unknown_suffixes_and_sizes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.png, \.tif, \.tiff, got 'x.jpg'"):
        open_writer("x.jpg", 4, 5)
    with pytest.raises(ValueError, match="width must be a positive number of pixels, got 0"):
        open_writer(tmp_path / "x.png", 4, 0)
    writer = open_writer(tmp_path / "x.png", 1, 1)
    writer.write(np.zeros((1, 1, 3), np.uint8))
    writer.close()
    with pytest.raises(ValueError, match="is closed"):
        writer.write(np.zeros((1, 1, 3), np.uint8))


WIDE = r"""
import importlib.util, re, sys
import numpy as np, tifffile, zlib

spec = importlib.util.spec_from_file_location("writers", sys.argv[1])  # the file alone: no torch to wait for
writers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(writers)
rows = np.zeros((8, 16384, 3), np.uint8)

def run(height, path):
    with writers.open_writer(path, height, 16384) as writer:
        for start in range(0, height, 8):
            rows[:] = start // 8
            writer.write(rows)
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])  # not the parent's

for suffix in (".tif", ".png"):  # what the PNG writer frees would hide what the TIFF writer holds
    before = run(16, "small" + suffix)
    print(run(768, "large" + suffix) - before)
"""


def test_16384_pixels_a_row_need_a_band_of_memory_not_the_picture(tmp_path):
    """768 rows of 16,384 pixels are 38 MB; the high-water mark may rise by less than half of that."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the high-water mark is read from /proc")
    pytest.importorskip("tifffile")
    run = [sys.executable, "-c", WIDE, writers.__file__]
    out = subprocess.run(run, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    assert all(int(kilobytes) < 18 * 1024 for kilobytes in out.stdout.split()), out.stdout
    for suffix in (".png", ".tif"):
        with Image.open(tmp_path / f"large{suffix}") as file:
            assert file.size == (16384, 768)
            assert file.crop((16000, 767, 16384, 768)).getextrema() == ((95, 95),) * 3
