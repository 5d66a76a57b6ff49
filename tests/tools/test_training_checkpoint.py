"""Which checkpoints a run keeps, and what it keeps of its rows when it is taken up."""

import errno
import io
import os

import pytest
import torch

from linzoo.tools.runs.log import keep_rows
from linzoo.tools.training import checkpoint
from linzoo.tools.training.checkpoint import (
    CheckpointFolder,
    Progress,
    find_bad_weight,
    rank_kept,
)
from linzoo.tools.training.log import STEP_COLUMNS, write_summary


def finish(folder, progress, metrics):
    """Finish one epoch for each metric; the checkpoint holds the epoch's number."""
    for metric in metrics:
        folder.rank(progress, progress.epoch, metric)
        progress.epoch += 1
        folder.write({"epoch": progress.epoch - 1})
        folder.settle(progress)


def epochs_in(folder):
    return {file.name: torch.load(file)["epoch"] for file in sorted(folder.iterdir())}


def test_the_best_epochs_are_kept_under_their_numbers(tmp_path):
    progress = Progress()
    finish(CheckpointFolder(tmp_path, 2, decreasing=False), progress, [10.0, 30.0, 20.0, 5.0])
    assert epochs_in(tmp_path) == {
        "checkpoint-1.pth.tar": 1, "checkpoint-2.pth.tar": 2, "last.pth.tar": 3, "model_best.pth.tar": 1,
    }  # fmt: skip
    assert progress.kept == [[1, 30.0], [2, 20.0]] and (progress.best_metric, progress.best_epoch) == (
        30.0,
        1,
    )


def test_a_loss_ranks_downwards_and_ties_keep_the_earlier(tmp_path):
    progress = Progress()
    finish(CheckpointFolder(tmp_path, 1, decreasing=True), progress, [3.0, 1.0, 1.0, 2.0])
    assert progress.kept == [[1, 1.0]] and progress.best_epoch == 1


def test_without_validation_the_newest_epochs_are_kept(tmp_path):
    finish(CheckpointFolder(tmp_path, 2, decreasing=False), Progress(), [None, None, None])
    assert set(epochs_in(tmp_path)) == {"checkpoint-1.pth.tar", "checkpoint-2.pth.tar", "last.pth.tar"}
    assert rank_kept([[0, None]], 1, 7.0, 2, False) == [[1, 7.0], [0, None]]


def test_a_later_last_does_not_change_the_numbered_ones(tmp_path):
    folder, progress = CheckpointFolder(tmp_path, 3, decreasing=False), Progress()
    finish(folder, progress, [1.0])
    folder.write({"epoch": 99})
    assert epochs_in(tmp_path) == {"checkpoint-0.pth.tar": 0, "last.pth.tar": 99, "model_best.pth.tar": 0}


def test_a_file_system_without_hard_links_gets_copies(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    finish(CheckpointFolder(tmp_path, 1, decreasing=False), Progress(), [1.0])
    assert set(epochs_in(tmp_path).values()) == {0}


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path, 1, decreasing=False)
    folder.write({"epoch": 1})

    def fail(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file\nbacktrace")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=r"cannot write .*last.pth.tar: PytorchStreamWriter failed .* file$"):
        folder.write({"epoch": 2})
    assert epochs_in(tmp_path) == {"last.pth.tar": 1}


@pytest.mark.parametrize("room", [0, 2000])
def test_the_systems_reason_is_said_when_the_disk_is_full(tmp_path, monkeypatch, room):
    class Full(io.BytesIO):
        def write(self, data):
            if self.tell() + len(data) <= room:
                return super().write(data)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "write_atomic", lambda path, write: write(Full()))
    folder = CheckpointFolder(tmp_path, 1, decreasing=False)
    with pytest.raises(OSError, match=f"cannot write .*last.pth.tar: {os.strerror(errno.ENOSPC)}$"):
        folder.write({"weights": torch.ones(4096)})


def test_the_first_weight_that_is_no_number_is_named():
    good = {"a": torch.ones(2), "b": torch.tensor(3)}
    assert find_bad_weight(good) is None
    assert find_bad_weight(good | {"c": torch.tensor([1.0, float("inf")])}) == "c"


def test_rows_after_the_checkpoint_and_torn_rows_are_dropped(tmp_path):
    file = tmp_path / "steps.csv"
    file.write_text("steps,epoch,step,loss,lr\n1,0,0,2.5,0.1\n2,0,1,2.4,0.1\n3,0,2,2.3,0.1\n4,0,3,2.")
    keep_rows(file, STEP_COLUMNS, 2)
    assert file.read_text() == "steps,epoch,step,loss,lr\n1,0,0,2.5,0.1\n2,0,1,2.4,0.1\n"
    keep_rows(tmp_path / "new.csv", STEP_COLUMNS, 0)
    assert (tmp_path / "new.csv").read_text() == "steps,epoch,step,loss,lr\n"


def test_the_summary_is_rewritten_as_it_was_written(tmp_path):
    from linzoo.tools.training.log import Log

    history = [{"epoch": i, "train_loss": 1 / (i + 3), "eval_top1": 1e2 / 7, "lr": 1e-5} for i in range(2)]
    log = Log(primary=True)
    log.open_run(tmp_path, 0, [])
    for row in history:
        log.epoch(row, 0)
    written = (tmp_path / "summary.csv").read_bytes()
    write_summary(tmp_path / "summary.csv", history)
    assert (tmp_path / "summary.csv").read_bytes() == written
