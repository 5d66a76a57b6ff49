"""Which objects beside tensors a checkpoint may hold: those of mmengine's own, and no others."""

import pickle
from zipfile import ZipFile

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet")

from mmengine.logging import HistoryBuffer

import linzoo.vision.detection  # noqa: F401
from linzoo.vision.detection import resume


def test_a_history_of_losses_is_read_back(tmp_path):
    history = HistoryBuffer()
    for loss in (3.0, 2.0, 1.5):
        history.update(loss)
    torch.save({"history": history, "scalar": np.float64(0.25), "count": np.int64(3)}, tmp_path / "x.pth")
    assert torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "x.pth") == []
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    assert content["history"].data[0].tolist() == [3.0, 2.0, 1.5]
    assert content["history"].mean(2) == 1.75
    assert (content["scalar"], content["count"]) == (0.25, 3)


def test_names_of_numpy_before_version_2_are_read_too(tmp_path):
    torch.save({"scalar": np.float64(0.25), "array": np.arange(3.0)}, tmp_path / "new.pth")
    with ZipFile(tmp_path / "new.pth") as new, ZipFile(tmp_path / "old.pth", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            assert not name.endswith("data.pkl") or b"numpy._core.multiarray" in content
            old.writestr(name, content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    content = torch.load(tmp_path / "old.pth", weights_only=True)
    assert content["scalar"] == 0.25
    assert content["array"].tolist() == [0.0, 1.0, 2.0]


class Runs:
    def __reduce__(self):
        return (print, ("run by a checkpoint",))


@pytest.mark.parametrize("kind", ["function", "class"])
def test_anything_else_is_refused_as_before(kind, tmp_path, capsys):
    torch.save({"x": Runs() if kind == "function" else pickle.Pickler}, tmp_path / "x.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.pth", weights_only=True)
    assert "run by" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("owner", "name"),
    [(HistoryBuffer, "__init__"), (HistoryBuffer, "register_statistics"), (np, "min"), (str, "format")],
    ids=["init", "register", "another-object", "format"],
)
def test_getattr_in_a_checkpoint_reaches_the_methods_of_a_history_only(owner, name):
    with pytest.raises(ValueError, match="methods of HistoryBuffer only"):
        resume.history_method(owner, name)
    assert resume.history_method(HistoryBuffer, "mean") is HistoryBuffer.mean


def test_getattr_as_an_attack_is_refused_when_loaded(tmp_path):
    class Reach:
        def __reduce__(self):
            return (getattr, (HistoryBuffer, "__init__"))

    torch.save({"x": Reach()}, tmp_path / "x.pth")
    with pytest.raises((ValueError, pickle.UnpicklingError), match="methods of HistoryBuffer only"):
        torch.load(tmp_path / "x.pth", weights_only=True)
