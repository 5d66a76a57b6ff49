"""``--resume RUN`` alone: the run's args.yaml says which trainer goes on with it, and with which settings."""

import pytest

from linzoo.cli import main
from linzoo.tools import train, train_lidar

from .distill_runs import DIGITS as DISTILLED
from .distill_runs import command as distill
from .distill_runs import teachers
from .lidar_runs import SMALL as LIDAR
from .lidar_runs import command as train_detector
from .lidar_runs import differing, last, one_thread, small, words
from .train_runs import digits

__all__ = ["teachers"]
pytestmark = pytest.mark.usefixtures(one_thread.__name__)
RUNS = {  # a folder by kind: its args.yaml
    "lidar": "detector: lion_retnet_small\n",
    "pictures": "model: ravlt_tiny\nmodel_kwargs: {}\n",
    "distilled": "method: none\nmodel: SanaTransformer2DModel\n",
    "other": "lr: 0.1\nmodel: ''\n",
    "list": "- model\n",
    "broken": "model: [\n",
}


@pytest.fixture
def runs(tmp_path):
    for name, text in RUNS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "args.yaml").write_text(text)
        (tmp_path / name / "last.pth.tar").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "trainer"),
    [
        ("--resume {runs}/lidar", train_lidar),
        ("--resume={runs}/lidar", train_lidar),
        ("--resume {runs}/lidar/last.pth.tar --max-steps 9", train_lidar),
        ("--max-steps 9 --resume {runs}/lidar", train_lidar),
        ("--resume {runs}/pictures", train),
        ("--resume {runs}/pictures/last.pth.tar", train),
        ("--resume {runs}/lidar --model ravlt_tiny", train),
        ("--resume {runs}/lidar -c digits", train),
        ("--resume {runs}/empty --model ravlt_tiny", train),
        ("--resume {runs}/pictures lion_retnet_kitti", train_lidar),
        ("--resume auto", train),
        ("--resume", train),
    ],
)
def test_the_run_picks_the_trainer_where_nothing_else_does(runs, line, trainer):
    assert train.module_for(["train", *words(line.format(runs=runs))]) is trainer


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "train --resume {runs}/nowhere",
            "where nothing else says what to train, got {runs}/nowhere",
        ),
        (
            "train --resume {runs}/empty",
            "a run's folder with args.yaml where nothing else says",
        ),
        ("train --resume {runs}/other", "{runs}/other/args.yaml names none of detector, method, model"),
        ("train --resume {runs}/list", "{runs}/list/args.yaml names none of detector, method, model"),
        (
            "train --resume {runs}/broken",
            "must be the folder of a run, {runs}/broken/args.yaml names",
        ),
        ("train --resume {runs}/distilled", "of `linzoo train`, {runs}/distilled is one of `linzoo distill`"),
        ("distill --resume {runs}/lidar", "of `linzoo distill`, {runs}/lidar is one of `linzoo train`"),
        ("distill --resume {runs}/empty", "a run's folder with args.yaml where nothing else says what to"),
    ],
)
def test_a_folder_that_is_no_such_run_is_refused(runs, capsys, line, message):
    assert main(words(line.format(runs=runs))) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert message.format(runs=runs) in told and "--resume must be" in told


@pytest.mark.parametrize("kind", ["lidar", "pictures", "distilled"])
def test_a_run_goes_on_alone_as_with_all_its_flags_wherever_its_folder_lies_now(
    tmp_path, request, monkeypatch, kind
):
    if kind == "lidar":
        pytest.importorskip("accelerate")
        request.getfixturevalue(small.__name__)

        def start(*more, name):
            return train_detector(tmp_path, *LIDAR, "--rotate", "45", *more, name=name)

    elif kind == "pictures":

        def start(*more, name):
            return digits(tmp_path, "--log-interval", "1", "--drop-path", "0.2", *more, name=name)

    else:
        pytest.importorskip("accelerate")
        teacher = str(request.getfixturevalue(teachers.__name__)("digits"))

        def start(*more, name):
            return distill(tmp_path, *DISTILLED, "--teacher", teacher, *more, name=name)

    assert start("--max-steps", "2", name="whole") == 0
    assert start("--max-steps", "1", name="begun") == 0
    moved = (tmp_path / "begun").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    command = "distill" if kind == "distilled" else "train"
    assert main([command, "--resume", moved.name, "--max-steps", "2"]) == 0
    assert (moved / "steps.csv").read_text() == (tmp_path / "whole" / "steps.csv").read_text()
    assert not differing(last(moved)["state_dict"], last(tmp_path / "whole")["state_dict"])
    assert sorted(f.name for f in tmp_path.iterdir() if (f / "args.yaml").exists()) == ["moved", "whole"]
