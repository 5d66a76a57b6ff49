"""``linzoo validate`` of several models: the table, and what a kill or a fault leaves of it."""

import csv
import json

import pytest
import torch

from linzoo.cli import main
from linzoo.tools import validate as tool

from .known_answers import always, argv, result, small_model, write_pictures_and_weights


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_pictures_and_weights(tmp_path_factory.mktemp("validate"))


def rows(path):
    return list(csv.DictReader(path.open()))


def test_the_table_has_timms_columns_and_a_row_a_model(capsys, files, tmp_path):
    listed = tmp_path / "models.txt"
    listed.write_text(f"ravlt_tiny {files / 'knows.pth'}  # knows\n\nravlt_tiny {files / 'green.pth'}\n")
    table = tmp_path / "out.csv"
    command = argv(files, "--results-file", str(table), checkpoint=None, model=str(listed))
    assert main(command) == 0
    assert [row["top1"] for row in rows(table)] == ["90.0", "40.0"]
    timms = ["model", "top1", "top1_err", "top5", "top5_err", "param_count", "img_size", "crop_pct"]
    assert list(rows(table)[0]) == [*timms, "interpolation", "checkpoint", "loss", "samples_per_sec"]
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_folder_of_checkpoints_is_gone_through_in_their_order(capsys, files, tmp_path):
    for number, index in ((10, 0), (9, 1)):
        torch.save({"state_dict": always(index).state_dict()}, tmp_path / f"checkpoint-{number}.pth.tar")
    table = tmp_path / "out.json"
    command = argv(files, "--results-file", str(table), "--results-format", "json", checkpoint=tmp_path)
    assert main(command) == 0
    found = json.loads(table.read_text())
    assert [row["top1"] for row in found] == [40.0, 20.0]
    assert [row["checkpoint"][-9:] for row in found] == ["9.pth.tar", "0.pth.tar"]


def test_a_wildcard_takes_every_model_that_fits(files, tmp_path):
    table = tmp_path / "out.csv"
    command = argv(
        files, "--random-weights", "--num-classes", "3", "--results-file", str(table), checkpoint=None,
        model="[r]avlt_[ts]*",
    )  # fmt: skip
    assert main(command) == 0
    assert [row["model"] for row in rows(table)] == ["ravlt_small", "ravlt_tiny"]


def test_a_wildcard_takes_each_models_file_from_a_folder(files, tmp_path):
    from linzoo.tools.validation.jobs import Job, with_files

    for name in ("ravlt_tiny.pth", "ravlt_small.safetensors", "mala_tiny.pth.tar"):
        (tmp_path / name).touch()
    names = ["ravlt_small", "ravlt_tiny", "mala_tiny"]
    expected = ["ravlt_small.safetensors", "ravlt_tiny.pth", "mala_tiny.pth.tar"]
    jobs = with_files(names, tmp_path)
    assert jobs == [Job(name, tmp_path / file) for name, file in zip(names, expected, strict=True)]
    with pytest.raises(FileNotFoundError, match="must have a file called mala_base for mala_base"):
        with_files([*names, "mala_base"], tmp_path)


def test_a_file_that_is_called_like_a_model_does_not_hide_the_model(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ravlt_tiny").write_text("mala_tiny\n")
    assert main(argv(files, "--results-file", "out.csv")) == 0
    assert [row["model"] for row in rows(tmp_path / "out.csv")] == ["ravlt_tiny"]


def test_an_interrupted_run_keeps_its_rows_and_goes_on_with_the_rest(files, tmp_path, monkeypatch):
    listed, table = tmp_path / "models.txt", tmp_path / "out.csv"
    listed.write_text(f"ravlt_tiny {files / 'knows.pth'}\nravlt_tiny {files / 'green.pth'}\n")
    command = argv(files, "--results-file", str(table), checkpoint=None, model=str(listed))
    real, called = tool.validate, []

    def stopping(job, args):
        called.append(job.checkpoint.name)
        if len(called) == 2:
            raise KeyboardInterrupt
        return real(job, args)

    monkeypatch.setattr(tool, "validate", stopping)
    assert main(command) == 130
    assert [row["top1"] for row in rows(table)] == ["90.0"]
    assert main([*command, "--resume"]) == 0
    assert called == ["knows.pth", "green.pth", "green.pth"]
    assert [row["top1"] for row in rows(table)] == ["90.0", "40.0"]


def test_a_model_that_fails_does_not_take_the_others_with_it(capsys, files, tmp_path):
    torch.save(small_model(dims=(8, 24), heads=(1, 3)).state_dict(), tmp_path / "other.pth")
    listed, table = tmp_path / "models.txt", tmp_path / "out.csv"
    listed.write_text(f"ravlt_tiny {tmp_path / 'other.pth'}\nravlt_tiny {files / 'green.pth'}\n")
    assert main(argv(files, "--results-file", str(table), checkpoint=None, model=str(listed))) == 1
    assert [row["top1"] for row in rows(table)] == ["40.0"]
    assert "another size?" in capsys.readouterr().err


def test_memory_that_runs_out_halves_the_batch_when_asked(files, capsys, monkeypatch):
    from linzoo.tools.validation import measure

    sizes, real = [], measure.check_batch

    def full(logits, target, before):
        sizes.append(len(target))
        if len(target) > 2:
            raise torch.OutOfMemoryError("full")
        real(logits, target, before)

    monkeypatch.setattr(measure, "check_batch", full)
    assert result(capsys, *argv(files, "--retry", "-b", "8"))["top1"] == 90.0
    assert sizes == [8, 4, 2, 2, 2, 2, 2]
