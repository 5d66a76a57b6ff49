"""A LiDAR training that is killed and taken up again is the one that was never disturbed: bit for bit."""

import multiprocessing
import random
from pathlib import Path

import pytest

from .killing import kill_after, steps_written
from .lidar_runs import differing, last, small_main, words

pytest.importorskip("accelerate")

LINE = words(
    "train --detector lion_retnet_tiny --backbone-kwargs drop_path=0.2 --dataset synthetic --scenes 4 -b 1 "
    "--flip x y --rotate 45 --scale 0.95 1.05 --translate 0.2 --paste Car=3 --epochs 3 --no-paste-epochs 1 "
    "--log-interval 1 --save-interval 3 --no-validation --device cpu"
)
UPDATES = 12
ROOT = Path(__file__).parents[2]


PRELOAD = [
    "torch", "accelerate", "scipy.optimize", "linzoo.tools.lidar.session", "linzoo.pointcloud.data.synthetic",
]  # fmt: skip


def start(context, folder):
    places = ["--output", str(folder.parent), "--experiment", folder.name, "--resume", "auto"]
    process = context.Process(target=small_main, args=([*LINE, *places],))
    process.start()
    return process


@pytest.mark.slow
def test_a_run_killed_twice_makes_the_same_losses_and_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(ROOT)  # the processes look the tests up by name
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(context, whole)
    undisturbed.join()
    assert undisturbed.exitcode == 0 and steps_written(whole) == UPDATES
    chance = random.Random()
    reached = []
    for moment in sorted(chance.sample(range(2, UPDATES - 2), 2)):
        process = start(context, killed)
        reached.append(kill_after(process, killed, moment, chance.uniform(0, 0.05)))
    (killed / ".last.pth.tar.1.tmp").write_bytes(b"half")  # as a kill in the midst of a save leaves
    final = start(context, killed)
    final.join()
    assert final.exitcode == 0
    assert (killed / "steps.csv").read_text() == (whole / "steps.csv").read_text(), f"killed at {reached}"
    one, other = last(whole), last(killed)
    assert not differing(one["state_dict"], other["state_dict"]), f"killed at {reached}"
    for slot, value in one["optimizer"]["state"].items():
        assert not differing(value, other["optimizer"]["state"][slot]), f"killed at {reached}"
    assert one["step"] == other["step"] == UPDATES
    assert sorted(f.name for f in whole.iterdir()) == sorted(f.name for f in killed.iterdir())
