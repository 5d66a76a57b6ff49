"""Files of points: what is read from each format, and what is said of a broken one."""

import struct

import numpy as np
import pytest
import torch

from linzoo.pointcloud.data.files import read_points
from linzoo.pointcloud.data.pcd import decompress_lzf

HEADER = (
    "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS {fields}\nSIZE {sizes}\nTYPE {types}\n"
    "COUNT {counts}\nWIDTH {n}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {n}\nDATA {data}\n"
)


def rows(n=5, values=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, values)).astype(np.float32)


def header(data, n=5, fields="x y z intensity", sizes="4 4 4 4", types="F F F F", counts="1 1 1 1"):
    text = HEADER.format(data=data, n=n, fields=fields, sizes=sizes, types=types, counts=counts)
    return text.encode()


def compress_lzf(plain: bytes) -> bytes:
    """Greedy: the longest earlier match of 3 or more bytes, else plain bytes."""
    out, run, at = bytearray(), bytearray(), 0

    def flush():
        for start in range(0, len(run), 32):
            part = run[start : start + 32]
            out.extend([len(part) - 1, *part])
        run.clear()

    while at < len(plain):
        best = (0, 0)
        for back in range(1, min(at, 8192) + 1):
            length = 0
            while (
                length < 264 and at + length < len(plain) and plain[at + length - back] == plain[at + length]
            ):
                length += 1
            best = max(best, (length, back))
        length, back = best
        if length < 3:
            run.append(plain[at])
            at += 1
            continue
        flush()
        code, far = length - 2, back - 1
        out.extend([min(code, 7) << 5 | far >> 8, *([code - 7] if code >= 7 else []), far & 255])
        at += length
    flush()
    return bytes(out)


def test_bin_files_hold_four_values_and_pcd_bin_files_five(tmp_path):
    kitti, nuscenes = rows(values=4), rows(values=5)
    kitti.tofile(tmp_path / "a.bin")
    nuscenes.tofile(tmp_path / "b.pcd.bin")
    assert torch.equal(read_points(tmp_path / "a.bin"), torch.from_numpy(kitti))
    assert torch.equal(read_points(tmp_path / "b.pcd.bin"), torch.from_numpy(nuscenes))
    assert torch.equal(read_points(tmp_path / "b.pcd.bin", 5), torch.from_numpy(nuscenes))


def test_npy_arrays_of_any_number_type_become_float32(tmp_path):
    for dtype in (np.float32, np.float64, np.int16):
        values = (rows(values=6) * 10).astype(dtype)
        np.save(tmp_path / "a.npy", values)
        read = read_points(tmp_path / "a.npy")
        assert read.dtype == torch.float32 and torch.equal(read, torch.from_numpy(values.astype(np.float32)))


@pytest.mark.parametrize("data", ["ascii", "binary", "binary_compressed"])
def test_every_kind_of_pcd_gives_the_same_points_with_intensity_fourth(tmp_path, data):
    n = 40
    xyz, ring = rows(n, 3).round(2), np.arange(n, dtype="<u2") % 4
    shine = rows(n, 1, seed=1).astype("<f8")
    columns = [ring, xyz[:, 0], xyz[:, 1], xyz[:, 2], shine[:, 0]]
    head = header(data, n, "ring x y z Intensity", "2 4 4 4 8", "U F F F F", "1 1 1 1 1")
    if data == "ascii":
        body = "".join(" ".join(repr(float(c[i])) for c in columns) + "\n" for i in range(n)).encode()
    elif data == "binary":
        body = b"".join(b"".join(c[i].tobytes() for c in columns) for i in range(n))
    else:
        plain = b"".join(np.ascontiguousarray(c).tobytes() for c in columns)
        packed = compress_lzf(plain)
        assert len(packed) < len(plain)
        body = struct.pack("<II", len(packed), len(plain)) + packed
    (tmp_path / "a.pcd").write_bytes(head + body)
    wanted = np.concatenate([xyz, shine, ring[:, None]], 1).astype(np.float32)
    assert torch.equal(read_points(tmp_path / "a.pcd"), torch.from_numpy(wanted))
    assert torch.equal(read_points(tmp_path / "a.pcd", 4), torch.from_numpy(wanted[:, :4]))


def test_padding_and_fields_of_several_values_are_laid_out_as_the_header_says(tmp_path):
    n = 3
    record = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("_", "u1", 4), ("normal", "<f4", 2)])
    values = np.zeros(n, record)
    for index, name in enumerate("xyz"):
        values[name] = np.arange(n) + 10 * index
    values["_"], values["normal"] = 99, np.arange(2 * n).reshape(n, 2)
    head = header("binary", n, "x y z _ normal", "4 4 4 1 4", "F F F U F", "1 1 1 4 2")
    (tmp_path / "a.pcd").write_bytes(head + values.tobytes())
    read = read_points(tmp_path / "a.pcd")
    assert read.tolist() == [[i, i + 10, i + 20, 2 * i, 2 * i + 1] for i in range(n)]


def test_lzf_undoes_a_compressor_and_copies_that_reach_into_themselves():
    assert decompress_lzf(bytes([0, 65, 0b111_00000, 3, 0]), 13) == b"A" * 13
    chance = np.random.default_rng(0)
    plain = bytes(chance.integers(0, 3, 600, dtype=np.uint8)) + bytes(300) + bytes(range(200))
    packed = compress_lzf(plain)
    assert decompress_lzf(packed, len(plain)) == plain


@pytest.mark.parametrize(
    ("packed", "size", "message"),
    [
        (bytes([5, 1, 2]), 6, "ends in the middle of a run"),
        (bytes([0b111_00000]), 9, "ends in the middle of a run"),
        (bytes([0, 65, 0b001_00000, 4]), 4, "refers to bytes before its start"),
        (bytes([0, 65]), 2, "must give 2 bytes, got 1"),
    ],
)
def test_damaged_lzf_is_refused(packed, size, message):
    with pytest.raises(ValueError, match=message):
        decompress_lzf(packed, size)


BROKEN = [
    ("gone.bin", None, "there is no such file of points"),
    ("empty.bin", b"", r"is empty \(0 bytes\)"),
    ("short.bin", bytes(35), r"rows of 4 float32 \(16 bytes each\), got 35 bytes: 3 too many"),
    ("short.pcd.bin", bytes(39), r"rows of 5 float32 \(20 bytes each\), got 39 bytes: 19 too many"),
    ("a.txt", b"1", "must end in .bin, .npy, .pcd"),
    ("short.npy", b"\x93NUMPY\x01\x00", "cut short or no .npy array"),
    ("short.pcd", b"VERSION 0.7\nFIELDS x y z\n", "header is cut short: it has no line DATA"),
    ("odd.pcd", b"VERSION 0.7\nhello\nDATA ascii\n", "a PCD header has lines VERSION, .* got 'hello'"),
    ("no_z.pcd", header("ascii", fields="x y w intensity"), "must have x, y, z, got x y w intensity: no z"),
    ("type.pcd", header("ascii", types="F F F Q"), "TYPE and SIZE must be .* got Q 4"),
    ("entries.pcd", header("ascii", sizes="4 4 4"), "must have as many entries, got 4, 3, 4, 4"),
    ("kind.pcd", header("zip"), "DATA must be ascii, binary or binary_compressed, got 'zip'"),
    ("words.pcd", header("ascii", counts="1 1 1 a"), "COUNT must be whole numbers"),
    ("binary.pcd", header("binary") + bytes(79), "is cut short: 5 points need 80 bytes, got 79"),
    ("packed.pcd", header("binary_compressed") + struct.pack("<II", 90, 80) + bytes(9), "is cut short: 90"),
    ("sizes.pcd", header("binary_compressed") + struct.pack("<II", 9, 81) + bytes(9), "need 80 bytes"),
    ("lines.pcd", header("ascii", 2) + b"1 2 3 4\n", "must hold 2 lines of points, got 1"),
    ("width.pcd", header("ascii", 2) + b"1 2 3 4\n1 2 3\n", "must hold 4 values, got 3 in row 1"),
    ("none.pcd", header("ascii", 0), r"is empty \(0 rows\)"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN, ids=[row[0] for row in BROKEN])
def test_a_broken_file_is_named_with_its_fault(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read_points(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_rows_that_are_no_numbers_are_counted_and_the_first_is_shown(tmp_path):
    values = rows(6)
    values[2, 1], values[4, 3] = np.nan, np.inf
    values.tofile(tmp_path / "a.bin")
    with pytest.raises(ValueError, match=r"a.bin: 2 of 6 points hold NaN .* the first is row 2: \(.*nan"):
        read_points(tmp_path / "a.bin")


@pytest.mark.parametrize(
    ("values", "shape", "message"),
    [
        (5, (4, 4), r"must hold numbers \(N, 5\), got \(4, 4\) float32"),
        (None, (4, 2), r"must hold numbers \(N, 3 or more\), got \(4, 2\)"),
        (None, (0, 4), r"is empty \(0 rows\)"),
        (2, (4, 4), "values must be at least 3"),
    ],
)
def test_another_number_of_values_a_point_is_refused(tmp_path, values, shape, message):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=message):
        read_points(tmp_path / "a.npy", values)


def test_a_pickled_array_is_not_read(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"x": 1}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a.npy: .*allow_pickle"):
        read_points(tmp_path / "a.npy")


def test_an_error_of_an_array_does_not_say_how_to_run_a_pickle(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"neither an array nor a pickle")
    with pytest.raises(ValueError, match=r"a\.npy: is cut short or no \.npy array of numbers") as caught:
        read_points(tmp_path / "a.npy")
    assert "unsafely" not in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_values_beyond_float32_are_refused_as_infinite(tmp_path):
    np.save(tmp_path / "a.npy", np.full((2, 4), 1e200))
    with pytest.raises(ValueError, match="2 of 2 points hold NaN or infinite values"):
        read_points(tmp_path / "a.npy")


def test_a_pcd_with_too_few_fields_is_refused(tmp_path):
    (tmp_path / "a.pcd").write_bytes(header("ascii", 1, "x y z", "4 4 4", "F F F", "1 1 1") + b"1 2 3\n")
    assert read_points(tmp_path / "a.pcd").shape == (1, 3)
    with pytest.raises(ValueError, match="must hold 4 values a point, got 3"):
        read_points(tmp_path / "a.pcd", 4)
