"""What goes wrong while a run trains: it ends with one line and names the last good checkpoint."""

import shutil

import pytest

from .train_runs import (
    PYRAMID,
    SMALL,
    digits,
    last,
    make_pictures,
    one_thread,
    refused,
    run,
)

pytestmark = pytest.mark.usefixtures(one_thread.__name__)


def fail_at(monkeypatch, step, act):
    """Call ``act`` when the run writes down its step ``step``."""
    from linzoo.tools.training.log import Log

    write = Log.row
    monkeypatch.setattr(
        Log, "row", lambda log, row: (write(log, row), act() if row["steps"] == step else None)
    )


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_folder_that_vanishes_ends_the_run_with_one_line(tmp_path, capsys, monkeypatch, workers):
    data = make_pictures(tmp_path / "data")
    fail_at(monkeypatch, 6, lambda: shutil.rmtree(data))
    words = [*SMALL, *PYRAMID, "-b", "4", "-j", workers, "--log-interval", "1", "--epochs", "20"]
    status = run(tmp_path, str(data), *words)
    refused(capsys, status, "cannot read ", "No such file", str(tmp_path / "run" / "last.pth.tar"))
    assert last(tmp_path / "run")["progress"]["epoch"] >= 1


def test_a_truncated_picture_is_named(tmp_path, capsys):
    data = make_pictures(tmp_path / "data", suffix=".jpg")
    broken = data / "train" / "cat" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:400])
    status = run(tmp_path, str(data), *SMALL, *PYRAMID, "-b", "16")
    refused(capsys, status, f"cannot read {broken}", "truncated", "no checkpoint had been written")


def test_a_loss_that_is_no_number_ends_the_run_with_the_last_finite_checkpoint(tmp_path, capsys, monkeypatch):
    from linzoo.tools.training import loop

    take, steps = loop.take_step, []

    def spoil(run, batch):
        steps.append(0)
        loss, pictures, update = take(run, batch)
        if len(steps) == 15:
            run.model.get_classifier().weight.data.fill_(float("nan"))
        return loss, pictures, update

    monkeypatch.setattr(loop, "take_step", spoil)
    status = digits(tmp_path, "--recovery-interval", "1", "--epochs", "3")
    refused(capsys, status, "weight head.weight is NaN or infinite after epoch 1, step 4", "last.pth.tar")
    assert status == 1
    state = last(tmp_path / "run")
    assert state["progress"]["steps"] == 14 and state["state_dict"]["head.weight"].isfinite().all()
    assert digits(tmp_path, "--epochs", "3", "--resume", "auto", "--max-steps", "15") == 0


def test_a_rate_that_explodes_ends_the_run(tmp_path, capsys):
    status = digits(tmp_path, "--opt", "sgd", "--lr", "1e30", "--sched", "none", "--log-interval", "3")
    refused(capsys, status, "NaN or infinite at epoch 0, step", "no checkpoint had been written")
    assert status == 1


def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint(tmp_path, capsys, monkeypatch):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    fail_at(monkeypatch, 14, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1])))
    try:
        status = digits(tmp_path, "--epochs", "3", "--log-interval", "1", "--recovery-interval", "1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    refused(capsys, status, "the last good checkpoint is", "File too large")
    assert last(tmp_path / "run")["progress"]["steps"] == 14 - 1
    assert not list((tmp_path / "run").glob(".*"))
