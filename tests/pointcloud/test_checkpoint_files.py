"""Files that hold numpy objects are read, and nothing else that a pickle can do."""

import argparse

import numpy as np
import pytest
import torch

from linzoo.pointcloud.checkpoint_files import official_checkpoint


def test_numpy_numbers_and_arrays_beside_tensors_are_read(tmp_path):
    content = {
        "model_state": {"w": torch.arange(3.0)},
        "epoch": np.int64(7),
        "best": np.float32(0.5),
        "history": np.arange(4.0),
        "counts": np.arange(4, dtype=np.int32),
    }
    torch.save(content, tmp_path / "old.pth")
    read = official_checkpoint(tmp_path / "old.pth")
    assert torch.equal(read["model_state"]["w"], torch.arange(3.0))
    assert read["epoch"] == 7 and read["best"] == 0.5
    assert read["history"].tolist() == [0, 1, 2, 3] and read["counts"].dtype == np.int32


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"args": argparse.Namespace(a=1)}, r"holds argparse\.Namespace, which is not read"),
        ([1, 2], "must hold a dict, got list"),
    ],
)
def test_other_classes_are_named_and_not_built(tmp_path, content, message):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=message):
        official_checkpoint(tmp_path / "odd.pth")


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "half.pth").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(ValueError, match=r"half\.pth cannot be read"):
        official_checkpoint(tmp_path / "half.pth")


def test_what_others_have_allowed_stays_allowed(tmp_path):
    torch.save({"best": np.float64(0.5)}, tmp_path / "old.pth")
    before = torch.serialization.get_safe_globals()
    try:
        torch.serialization.add_safe_globals([np.dtype, (np.ndarray, "numpy.ndarray")])
        registered = torch.serialization.get_safe_globals()
        official_checkpoint(tmp_path / "old.pth")
        assert set(torch.serialization.get_safe_globals()) == set(registered)
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
