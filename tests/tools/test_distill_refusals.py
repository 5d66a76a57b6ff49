"""What ``linzoo distill`` refuses, and how it ends when something goes wrong: one line says what."""

from types import SimpleNamespace

import pytest
import torch

from .distill_runs import (
    CAPTIONS,
    DIGITS,
    command,
    last,
    one_thread,
    pictures,
    refused,
    rows,
    teachers,
    words,
)

pytest.importorskip("diffusers")
pytest.importorskip("sklearn")
pytestmark = pytest.mark.usefixtures(one_thread.__name__)
__all__ = ["pictures", "teachers"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "--method must be what replaces the attention"),
        ("--method lit", "--dataset must be digits, classes or captions, got none"),
        ("--method lit --dataset digits", "--max-steps must be the number of optimizer updates, got none"),
        ("{ok} --max-steps 0", "--max-steps must be at least 1, got 0"),
        ("{ok} -b 0", "--batch-size must be at least 1, got 0"),
        ("{ok} --lr nan", "--lr must be at least 0, got nan"),
        ("{ok} --clip-grad -1", "--clip-grad must be at least 0, got -1.0"),
        ("{ok} --ema-decay 1", "--ema-decay must be from 0 to below 1, got 1.0"),
        ("{ok} --label-dropout -0.5", "--label-dropout must be from 0 to below 1, got -0.5"),
        ("{ok}", "--teacher must be a hub id or a folder, got none"),
        ("{ok} --model X", "--model needs --from-scratch"),
        ("{ok} --model X --teacher Y --from-scratch", "--model and --teacher both say"),
        ("{ok} --teacher X --model-kwargs a=1", "--model-kwargs needs --model"),
        ("{ok} --teacher X --method none", "--objective must be given for --method none"),
        ("{ok} --teacher X --method none --objective lit", "--method none needs --from-scratch"),
        (
            "{ok} --teacher X --method none --objective lit --method-kwargs heads=2",
            "--method-kwargs needs a --method, got none",
        ),
        ("{ok} --teacher X --from-scratch --output-weight 1", "--output-weight needs a teacher"),
        ("{ok} --teacher X --hflip", "--hflip cannot be used with --dataset digits"),
        ("{ok} --teacher X --dataset captions", "--data-dir must be a folder of pictures"),
        ("{ok} --teacher X --opt prodigy", "--lr must be 1 with --opt prodigy"),
        ("{ok} --teacher ./nowhere", "--teacher must be a hub id or a folder, nowhere is no folder"),
        ("{ok} --teacher {empty}", "--teacher {empty} cannot be loaded: "),
        ("{ok} --from-scratch --model Unet", "--model must be one of UNet2DConditionModel, "),
        (
            "{ok} --from-scratch --model DiTTransformer2DModel --model-kwargs layers=1",
            "--model-kwargs: DiTTransformer2DModel has no layers",
        ),
        ("{ok} --teacher {dit} --dataset captions --data-dir x", "--dataset must be digits or classes"),
        ("{ok} --teacher {dit} --objective linfusion", "--objective must be lit for a DiTTransformer2DModel"),
        ("{ok} --teacher {dit} --method linfusion", "--objective must be lit for a DiTTransformer2DModel"),
        ("{ok} --teacher {dit} --method clear", "must be lit for a DiTTransformer2DModel, got clear"),
        ("{ok} --teacher {dit} --method-kwargs head=2", "head is not an option of method='lit'; did you"),
        ("{ok} --teacher {dit} --method-kwargs heads=2.5", "heads must be an int, got 2.5"),
        ("{ok} --teacher {dit} --init random", "init is not used by method='lit'"),
        ("{ok} --teacher {dit} --weights ./w", "weights must be a file, a folder or a hub id"),
        ("{ok} --teacher {dit} --feature-weight 1", "feature_weight cannot be set: objective 'lit'"),
        ("{ok} --teacher {dit} --opt-kwargs beta=1", "--opt-kwargs {{'beta': 1}}: "),
        ("{ok} --teacher {dit} -b 2000", "--batch-size must be so that an update has at most the 1437"),
        ("{ok} --teacher {dit} --mixed-precision fp16", "--mixed-precision must be no or bf16 on the CPU"),
        ("{ok} --teacher {dit} --resume {empty}", "--resume must be the folder of a run with last.pth.tar"),
        ("{ok} --teacher {dit} --output {file}", "--output must be a folder, {file} is a file"),
        ("nowhere.toml", "--config must be a file or a packaged recipe, nowhere.toml is not a file"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(tmp_path, capsys, teachers, line, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    places = {"empty": tmp_path / "empty", "file": tmp_path / "file", "dit": teachers("digits")}
    ok = "--method lit --dataset digits --max-steps 1 --device cpu --samples 0 -b 4"
    given = words(line.format(ok=ok, **places))
    output = [] if "--output" in given else ["--output", str(tmp_path / "runs")]
    status = command_with(given, output)
    refused(capsys, status, message.format(**places))
    assert status == 2 and not (tmp_path / "runs").exists()


def command_with(given, output):
    from linzoo.cli import main

    return main(["distill", *given, *output])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--method clear", "--objective must be linfusion or lit for a UNet2DConditionModel, got clear"),
        ("--dataset digits", "--dataset must be captions for a UNet2DConditionModel, got digits"),
        ("--resolution 33", "--resolution must be a multiple of 2 for this teacher, got 33"),
        ("--data-dir nowhere", "--data-dir must be a folder, nowhere is none"),
        ("--sched cosine --opt-kwargs betas=3", "--opt-kwargs {'betas': 3}"),
        ("--method none --objective linfusion --from-scratch", "train must be 'all' for a model without"),
    ],
)
def test_what_a_pipeline_cannot_do_is_refused_by_name(tmp_path, capsys, teachers, pictures, more, message):
    line = [*CAPTIONS, "--method", "linfusion", "--teacher", str(teachers("sd")), "--data-dir", str(pictures)]
    line += ["--cache", str(tmp_path / "cache"), "--max-steps", "1"]
    refused(capsys, command(tmp_path / "runs", *line, *words(more)), message)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = 'fast'", "mine.toml:1: lr must be a number, got 'fast'"),
        ("learning_rate = 1", "mine.toml:1: learning_rate must be the name of a flag"),
        (
            "[student]\nmethod = 'lyt'",
            "mine.toml:2: method must be one of linfusion, clear, lit, none, got 'lyt'",
        ),
        ("method_kwargs = 3", "method_kwargs must be a table of names and values, got 3"),
    ],
)
def test_a_recipes_fault_is_named_with_its_line(tmp_path, capsys, text, message):
    (tmp_path / "mine.toml").write_text(text)
    refused(capsys, command(tmp_path, str(tmp_path / "mine.toml")), message)


def test_an_unknown_recipe_names_the_nearest(tmp_path, capsys):
    message = "packaged recipe, got 'linfusion_xl'; did you mean linfusion_sdxl?"
    refused(capsys, command(tmp_path, "linfusion_xl"), message)


def digits(tmp_path, teachers, *more, name="run"):
    return command(tmp_path, *DIGITS, "--teacher", str(teachers("digits")), *more, name=name)


def test_a_folder_that_holds_a_run_is_refused_and_another_run_cannot_go_on(tmp_path, capsys, teachers):
    assert digits(tmp_path, teachers, "--max-steps", "1") == 0
    refused(
        capsys, digits(tmp_path, teachers, "--max-steps", "1"), "--experiment must be a new name", "--resume"
    )
    status = digits(tmp_path, teachers, "--max-steps", "2", "--resume", "auto", "--lr", "0.5")
    refused(capsys, status, "this run is not that of", "lr 0.001 -> 0.5")
    status = digits(tmp_path, teachers, "--max-steps", "2", "--resume", "auto", "-b", "16")
    refused(capsys, status, "pictures an update 8 -> 16")
    (tmp_path / "run" / "last.pth.tar").write_bytes(b"no")
    status = digits(tmp_path, teachers, "--max-steps", "2", "--resume", "auto")
    refused(capsys, status, "last.pth.tar cannot be read, damaged or no checkpoint")


def fail_at(monkeypatch, step, act):
    """Call ``act`` when the run writes down its step ``step``."""
    from linzoo.tools.runs.log import Log

    write = Log.row
    monkeypatch.setattr(
        Log, "row", lambda log, row: (write(log, row), act() if row["step"] == step else None)
    )


def test_a_loss_that_is_no_number_ends_the_run_and_nothing_of_it_is_saved(tmp_path, capsys, teachers):
    status = digits(tmp_path, teachers, "--max-steps", "9", "--lr", "1e30", "--save-interval", "1")
    refused(capsys, status, "NaN or infinite", "last.pth.tar (--resume")
    assert status == 1
    state = last(tmp_path / "run")
    assert all(value.isfinite().all() for value in state["state_dict"].values())
    assert state["step"] == len(rows(tmp_path / "run"))


def test_a_weight_that_is_no_number_is_named_and_not_saved(tmp_path, capsys, teachers, monkeypatch):
    from linzoo.tools.distillation import loop

    update = loop.update

    def spoil(run):
        terms = update(run)
        if run.step == 2:
            run.trained["proj_out_2.weight"].data[0, 0] = float("nan")
        return terms

    monkeypatch.setattr(loop, "update", spoil)
    status = digits(tmp_path, teachers, "--max-steps", "3", "--save-interval", "1")
    refused(capsys, status, "weight proj_out_2.weight is NaN or infinite after step 2", "last.pth.tar")
    assert status == 1 and last(tmp_path / "run")["step"] == 1


def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint(tmp_path, capsys, teachers, monkeypatch):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    fail_at(monkeypatch, 2, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1])))
    try:
        status = digits(tmp_path, teachers, "--max-steps", "3", "--save-interval", "1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    refused(capsys, status, "cannot write", "File too large", "the last good checkpoint is")
    assert last(tmp_path / "run")["step"] == 1
    assert sorted(f.name for f in (tmp_path / "run" / "weights").iterdir()) == [
        "config.json",
        "lit.safetensors",
    ]
    monkeypatch.undo()
    assert digits(tmp_path, teachers, "--max-steps", "2", "--resume", "auto") == 0
    assert not [f.name for f in (tmp_path / "run").iterdir() if f.name.startswith(".")]


def test_an_interrupted_run_says_where_it_goes_on(tmp_path, capsys, teachers, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    fail_at(monkeypatch, 2, interrupt)
    assert digits(tmp_path, teachers, "--max-steps", "3", "--save-interval", "1") == 130
    lines = capsys.readouterr().err
    assert f"Stopped; the last good checkpoint is {tmp_path / 'run' / 'last.pth.tar'}" in lines
    assert lines.strip().endswith("linzoo distill: interrupted")


@pytest.mark.parametrize("kind", ["DEEPSPEED", "FSDP"])
def test_processes_that_split_the_weights_are_refused(kind):
    from accelerate.utils import DistributedType

    from linzoo.tools.distill import parse
    from linzoo.tools.runs.accelerator import unfit

    accelerator = SimpleNamespace(device=torch.device("cpu"), distributed_type=DistributedType[kind])
    assert unfit(parse([]), accelerator) == (
        f"accelerate's distributed_type must be plain data parallelism, got {kind}"
    )
    accelerator.distributed_type = DistributedType.MULTI_CPU
    assert unfit(parse([]), accelerator) == ""


def test_runs_of_different_precision_follow_each_other_in_one_process(tmp_path, teachers):
    for name, precision in (("one", "bf16"), ("two", "no")):
        status = digits(tmp_path, teachers, "--max-steps", "1", "--mixed-precision", precision, name=name)
        assert status == 0
    first, second = (float(rows(tmp_path / name)[0]["loss"]) for name in ("one", "two"))
    assert first != second and first == pytest.approx(second, rel=0.03)
    assert torch.get_autocast_dtype("cpu") == torch.bfloat16 and not torch.is_autocast_enabled("cpu")
