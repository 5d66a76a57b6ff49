"""What the tests of ``linzoo distill`` share: teachers, short flags, what a run left behind."""

import csv

import pytest
import torch

from linzoo import cli

from .distill_teachers import make_pictures, save_digits_teacher, save_teacher


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Folder of a tiny teacher by kind, made once: ``teachers("sd")``."""
    root, made = tmp_path_factory.mktemp("teachers"), {}

    def folder(kind):
        if kind not in made:
            save = save_digits_teacher if kind == "digits" else save_teacher
            made[kind] = save(root / kind, *(() if kind == "digits" else (kind,)))
        return made[kind]

    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("pictures") / "data")


def words(text):
    return text.split()


DIGITS = words("--dataset digits --method lit -b 8 --lr 1e-3 --samples 0 --log-interval 1 --device cpu")
CAPTIONS = words(
    "--dataset captions --resolution 32 -b 2 --lr 1e-3 --samples 0 --log-interval 1 --device cpu "
    "--shard-size 3 --encode-batch-size 2"
)


def command(tmp_path, *words, name="run"):
    """The exit status of ``linzoo distill``, in this process."""
    return cli.main(["distill", *words, "--output", str(tmp_path), "--experiment", name])


def start(tmp_path, *words, name="run"):
    """A finished run, from Python."""
    from linzoo.tools.distill import parse
    from linzoo.tools.distillation.session import distill

    return distill(parse([*words, "--output", str(tmp_path), "--experiment", name]))


def rows(folder):
    with open(folder / "steps.csv", newline="") as file:
        return list(csv.DictReader(file))


def losses(folder):
    return [float(row["loss"]) for row in rows(folder)]


def last(folder):
    return torch.load(folder / "last.pth.tar", weights_only=True)


def refused(capsys, status, *parts):
    assert status in (1, 2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("linzoo distill: "), lines
    for part in parts:
        assert part in lines[-1]
