"""What ``linzoo train`` refuses before anything is written."""

from pathlib import Path

import pytest
import torch

from .train_runs import DIGITS, PYRAMID, SMALL, digits, make_pictures, one_thread, refused, run

pytestmark = pytest.mark.usefixtures(one_thread.__name__)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "ravlt_tiniest"], "model must be a name known to timm or linzoo, got 'ravlt_tiniest'"),
        (["--num-classes", "11"], "--num-classes must be the data set's 10, got 11"),
        (["--dataset", "didgits"], "--dataset must be 'digits', empty"),
        (["--dataset", ""], "--data-dir must be a folder or tar file of pictures, got none"),
        (
            ["--dataset", "", "--data-dir", "/nowhere"],
            "--data-dir must be a folder or tar file, /nowhere is not",
        ),
        (["-b", "0"], "--batch-size must be at least 1, got 0"),
        (["-b", "5000"], "--batch-size must be at most the 1437 pictures"),
        (["-b", "3", "--mixup", "0.8"], "--batch-size must be even with mixup or cutmix, got 3"),
        (["--smoothing", "1.5"], "--smoothing must be from 0 to 1, got 1.5"),
        (["--opt", "adamww"], "--opt adamww: Optimizer adamww not found in registry; did you mean adamw?"),
        (["--opt-kwargs", "fast=1"], "--opt adamw: "),
        (["--model-kwargs", "widths=(1,2)"], "--model-kwargs must suit ravlt_tiny, got "),
        (["--aa", "rand-q9"], "--aa rand-q9"),
        (["--train-interpolation", "cubist"], "cubist"),
        (["--torchcompile", "fast"], "--torchcompile must be a backend of torch.compile"),
        (["--resume", "/nowhere"], "--resume must be a checkpoint or a run's folder"),
        (["--initial-checkpoint", "/nowhere"], "--initial-checkpoint must be a file"),
        (
            ["--pretrained", "--model", "mala_tiny"],
            "--pretrained: no published weights are known for mala_tiny",
        ),
        (["--device", "nonsense"], "--device must be a device of this machine"),
        (["--scale", "0.5"], "--scale must be two numbers 0 < low <= high, got [0.5]"),
        (["--jsd-loss"], "--aug-splits must be at least 2"),
        (["--sched", "cosinus"], "cosinus"),
        (["--dataset", "wds/nothing", "--data-dir", "/nowhere"], ""),
    ],
    ids=lambda value: "".join(value).lstrip("-") if isinstance(value, list) else "",
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, capsys, words, message):
    refused(capsys, digits(tmp_path, *words), message)
    assert not any(tmp_path.iterdir())


def test_batchnorm_of_another_kind_over_processes_is_refused_on_the_cpu():
    import timm

    from linzoo.tools.training.joined_norm import join_batch_norms

    model = timm.create_model("efficientnet_b0", num_classes=3)  # its norms hold their activations
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match=r"--sync-bn on a CPU takes models with .* BatchNorm2d, bn1"):
        join_batch_norms(model, torch.device("cpu"))
    assert [type(module) for module in model.modules()] == kinds


def test_no_model_is_refused(tmp_path, capsys):
    refused(capsys, run(tmp_path, *DIGITS, *SMALL), "--model must be a model's name")


def test_an_output_that_is_a_file_or_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    refused(capsys, digits(tmp_path / "file", "--max-steps", "1"), "--output must be a folder", "is a file")
    status = digits(Path("/proc/none"), "--max-steps", "1")
    refused(capsys, status, "--output must be a folder that can be written to, /proc/none/run: ")
    assert (tmp_path / "file").read_text() == "x"


def test_a_new_run_does_not_overwrite_an_old_one(tmp_path, capsys):
    assert digits(tmp_path, "--max-steps", "1") == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    refused(capsys, digits(tmp_path, "--max-steps", "1"), "holds a run; --resume auto goes on with it")
    assert before == {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}


def test_another_run_is_not_taken_up(tmp_path, capsys):
    assert digits(tmp_path, "--max-steps", "1") == 0
    before = (tmp_path / "run" / "last.pth.tar").read_bytes()
    status = digits(tmp_path, "--max-steps", "2", "--resume", "auto", "--lr", "1e-3", "--model", "mala_tiny")
    refused(capsys, status, "lr 0.002 -> 0.001", "model ravlt_tiny -> mala_tiny")
    assert (tmp_path / "run" / "last.pth.tar").read_bytes() == before


def test_weights_of_another_variant_are_refused(tmp_path, capsys):
    assert digits(tmp_path, "--max-steps", "1") == 0
    other = [word.replace("(16,32)", "(16,48)") for word in PYRAMID]
    start = str(tmp_path / "run" / "last.pth.tar")
    status = digits(tmp_path, "--initial-checkpoint", start, model=other, name="b")
    refused(capsys, status, f"{start} does not fit ravlt_tiny: ", "48")
    assert not (tmp_path / "b").exists()


def test_a_damaged_checkpoint_is_refused(tmp_path, capsys):
    assert digits(tmp_path, "--max-steps", "1") == 0
    file = tmp_path / "run" / "last.pth.tar"
    file.write_bytes(file.read_bytes()[:5000])
    refused(capsys, digits(tmp_path, "--resume", "auto"), "cannot be read, damaged or no checkpoint")


def test_a_folder_without_the_validation_split_is_refused(tmp_path, capsys):
    data = make_pictures(tmp_path / "data", splits=("train", "test"))
    root = make_pictures(tmp_path / "flat", splits=("",))
    for place, have in ((data, "folders there: test, train"), (root, "folders there: cat, dog")):
        status = run(tmp_path, str(place), *SMALL, *PYRAMID, "-b", "4", "--max-steps", "1")
        refused(capsys, status, "--val-split must be another part", "got 'validation'", have)
    assert not (tmp_path / "run").exists()
