"""A run that is killed and taken up again, whenever, is the run that was never disturbed: bit for bit."""

import multiprocessing
import random

import pytest
import torch

from linzoo.cli import main

from .killing import kill_after, steps_written


def words(text):
    return text.split()


WORDS = words(
    "train --dataset digits --in-chans 1 --img-size 16 -b 64 -j 0 --device cpu --mean 0.3 --model "
    "ravlt_tiny --model-kwargs dims=(16,32) depths=(1,1) heads=(1,2) neck_dim=32 layer_scale=(1,1) "
    "mixers=rala --opt adamw --lr 5e-3 --epochs 3 --warmup-epochs 1 --sched-on-updates --drop-path "
    "0.1 --mixup 0.2 --reprob 0.25 --model-ema --log-interval 1 --recovery-interval 4 "
    "--checkpoint-hist 1"
)


def start(context, folder):
    words = [*WORDS, "--output", str(folder.parent), "--experiment", folder.name, "--resume", "auto"]
    process = context.Process(target=main, args=(words,))
    process.start()
    return process


@pytest.mark.slow
def test_a_run_killed_three_times_equals_the_undisturbed_run(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "timm", "sklearn.datasets", "linzoo.tools.training.session"])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(context, whole)
    undisturbed.join()
    assert undisturbed.exitcode == 0 and steps_written(whole) == 66
    chance = random.Random()
    moments = sorted(chance.sample(range(2, 60), 3))
    reached = []
    for moment in moments:
        process = start(context, killed)
        reached.append(kill_after(process, killed, moment, chance.uniform(0, 0.1)))
    last = start(context, killed)
    last.join()
    assert last.exitcode == 0
    for name in ("steps.csv", "summary.csv"):
        assert (killed / name).read_text() == (whole / name).read_text(), f"{name}, killed at {reached}"
    one, other = (torch.load(place / "last.pth.tar", weights_only=True) for place in (whole, killed))
    for part in ("state_dict", "state_dict_ema"):
        differ = [key for key, value in one[part].items() if not torch.equal(value, other[part][key])]
        assert not differ, f"{part}, killed at {reached}: {differ}"
    assert one["progress"] == other["progress"]
    assert sorted(f.name for f in whole.iterdir()) == sorted(f.name for f in killed.iterdir())
