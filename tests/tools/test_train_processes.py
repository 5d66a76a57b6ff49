"""Training in two processes (gloo), started as users start it: as one with the joined batch; it learns."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .train_runs import make_pictures

ROOT = Path(__file__).parents[2]


def words(text):
    return text.split()


DIGITS = words("--dataset digits --in-chans 1 -j 0 --device cpu --mean 0.3 --std 0.38 --opt adamw")
VIT = words(
    "--model vit_tiny_patch16_224 --img-size 16 --model-kwargs embed_dim=24 depth=2 num_heads=2 "
    "patch_size=8 img_size=16"
)
TORCHRUN = words("-m torch.distributed.run --standalone --nproc-per-node 2 -m linzoo train")
ACCELERATE = words("-m accelerate.commands.launch --cpu --num_processes 1 -m linzoo train")


def launch(launcher, words):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    return done.returncode, done.stdout, done.stderr


def losses(folder):
    with open(folder / "steps.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def last(folder):
    return torch.load(folder / "last.pth.tar", weights_only=True)


# plain SGD: biases that BatchNorm cancels have gradients of rounding alone, which Adam would scale up
PYRAMID = words(
    "--model ravlt_tiny --img-size 32 --model-kwargs dims=(16,32,32) depths=(1,1,1) heads=(1,2,2) "
    "neck_dim=64 layer_scale=(1,1,1) mixers=linear --drop-path 0 --opt sgd --lr 0.1"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "extra"),
    [(VIT, []), (PYRAMID, ["--sync-bn"])],
    ids=["transformer", "pyramid, BatchNorm joined"],
)
def test_two_processes_equal_one_with_the_joined_batch(tmp_path, model, extra):
    """Losses, weights and running statistics of six steps."""
    from linzoo.cli import main

    words = [*DIGITS, "--lr", "1e-3", *model, "--sched", "none", "--log-interval", "1", "--max-steps", "6"]
    words += ["--output", str(tmp_path)]
    assert main(["train", *words, "-b", "64", "--experiment", "one"]) == 0
    status, _, errors = launch(TORCHRUN, [*words, *extra, "-b", "32", "--experiment", "two"])
    assert status == 0, errors
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 6 and two == pytest.approx(one, rel=1e-5)
    first, second = (last(tmp_path / name)["state_dict"] for name in ("one", "two"))
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-5, atol=1e-5)
    assert len(last(tmp_path / "two")["ranks"]) == 2


@pytest.mark.slow
def test_two_processes_learn_the_digits_from_a_recipe_and_go_on_within_an_epoch(tmp_path):
    words = ["-c", "digits", "-b", "32", "--epochs", "4", "--warmup-epochs", "1", "--no-aug", "--lr", "3e-3"]
    words += ["--device", "cpu", "--output", str(tmp_path), "--experiment", "run", "--resume", "auto"]
    words += ["--model-kwargs", "dims=(24,48,64)", "depths=(1,1,1)", "heads=(1,2,2)", "neck_dim=128"]
    words += ["layer_scale=(1,1,1)", "mixers=linear"]
    status, _, errors = launch(TORCHRUN, [*words, "--max-steps", "30"])
    assert status == 0, errors
    assert last(tmp_path / "run")["progress"]["step"] == 8
    status, out, errors = launch(TORCHRUN, words)
    assert status == 0, errors
    assert "Resumed from" in errors and errors.count("Resumed from") == 1 == out.count("linzoo train:")
    state = last(tmp_path / "run")
    assert state["progress"]["steps"] == 4 * 22
    assert state["progress"]["best_metric"] >= 97 and state["metric"] >= 97


@pytest.mark.slow
def test_a_fault_in_one_process_ends_all_with_a_line_each(tmp_path):
    data = make_pictures(tmp_path / "data", each=4)
    broken = data / "train" / "cat" / "0.png"
    broken.write_bytes(broken.read_bytes()[:200])
    words = [str(data), *VIT, "-b", "2", "-j", "0", "--device", "cpu", "--output", str(tmp_path / "runs")]
    status, _, errors = launch(TORCHRUN, words)
    lines = [line for line in errors.splitlines() if line.startswith("linzoo train: ")]
    assert status == 1 and any(f"cannot read {broken}" in line for line in lines), errors
    assert "[rank" not in errors  # torch begins the lines of a process's traceback so


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [ACCELERATE, ["tools/train.py"]], ids=["accelerate", "script"])
def test_other_ways_to_start_it_work(tmp_path, launcher):
    words = [*DIGITS, *VIT, "-b", "64", "--max-steps", "1", "--output", str(tmp_path), "--experiment", "run"]
    status, out, errors = launch(launcher, words)
    assert status == 0, errors
    assert "linzoo train: " in out and last(tmp_path / "run")["progress"]["steps"] == 1
