"""Distillation in two processes (gloo), started as users start it: as one with the joined batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .distill_runs import CAPTIONS, DIGITS, last, losses, one_thread, pictures, start, teachers, words

pytest.importorskip("diffusers")
pytest.importorskip("sklearn")
pytestmark = pytest.mark.usefixtures(one_thread.__name__)
__all__ = ["pictures", "teachers"]

ROOT = Path(__file__).parents[2]
TORCHRUN = words("-m torch.distributed.run --standalone --nproc-per-node 2 -m linzoo distill")
ACCELERATE = words("-m accelerate.commands.launch --cpu --num_processes 1 -m linzoo distill")


def launch(launcher, line):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, *line]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_two_processes_equal_one_with_the_joined_batch(tmp_path, teachers, pictures):
    """Losses and weights of three LinFusion updates in float32, 1e-5; both fill the cache together."""
    line = [*CAPTIONS, "--method", "linfusion", "--teacher", str(teachers("sd")), "--data-dir", str(pictures)]
    line += words("--max-steps 3 --opt-kwargs eps=1e-3 --ema-decay 0.5 --clip-grad 1")
    one = start(tmp_path, *line, "-b", "4", "--cache", str(tmp_path / "one-cache"), name="one")
    places = ["--output", str(tmp_path), "--experiment", "two", "--cache", str(tmp_path / "two-cache")]
    status, out, errors = launch(TORCHRUN, [*line, "-b", "2", *places])
    assert status == 0, errors
    assert out.count("linzoo distill: ") == 1 and errors.count("Distill: [") == 3
    assert losses(tmp_path / "two") == pytest.approx(losses(one.folder), rel=1e-5)
    first, second = (last(tmp_path / name) for name in ("one", "two"))
    for part in ("state_dict", "state_dict_ema"):
        assert first[part].keys() == second[part].keys()
        for key, value in first[part].items():
            torch.testing.assert_close(second[part][key], value, rtol=1e-5, atol=1e-5)
    assert len(second["ranks"]) == 2
    files = sorted(f.name for f in next((tmp_path / "two-cache").iterdir()).iterdir())
    assert files == sorted(f.name for f in one.samples.folder.iterdir())


@pytest.mark.slow
def test_accelerate_starts_it(tmp_path, teachers):
    line = [*DIGITS, "--teacher", str(teachers("digits")), "--output", str(tmp_path), "--experiment", "run"]
    status, out, errors = launch(ACCELERATE, [*line, "--max-steps", "1"])
    assert status == 0, errors
    assert f"linzoo distill: {tmp_path / 'run'}" in out and last(tmp_path / "run")["step"] == 1
