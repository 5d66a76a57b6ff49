"""A distillation that is killed and taken up again is the one that was never disturbed: bit for bit."""

import multiprocessing
import random

import pytest
import torch

from linzoo.cli import main

from .distill_teachers import save_digits_teacher
from .killing import kill_after, steps_written

pytest.importorskip("diffusers")
pytest.importorskip("sklearn")


def words(text):
    return text.split()


LINE = words(
    "distill --method lit --dataset digits -b 8 --grad-accum-steps 2 --lr 3e-3 --warmup-steps 5 "
    "--clip-grad 1 --ema-decay 0.9 --max-steps 24 --log-interval 1 --save-interval 3 --samples 0 --device cpu"
)


PRELOAD = [
    "torch", "accelerate", "sklearn.datasets", "sklearn.model_selection", "diffusers.optimization",
    "diffusers.models.transformers.dit_transformer_2d", "diffusers.schedulers.scheduling_ddpm",
    "linzoo.tools.distillation.session", "linzoo.diffusion.lit",
]  # fmt: skip


def start(context, teacher, folder):
    places = ["--teacher", str(teacher), "--output", str(folder.parent), "--experiment", folder.name]
    process = context.Process(target=main, args=([*LINE, *places, "--resume", "auto"],))
    process.start()
    return process


@pytest.mark.slow
def test_a_run_killed_twice_makes_the_same_losses_and_weights(tmp_path):
    teacher = save_digits_teacher(tmp_path / "teacher", layers=1)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(context, teacher, whole)
    undisturbed.join()
    assert undisturbed.exitcode == 0 and steps_written(whole) == 24
    chance = random.Random()
    reached = []
    for moment in sorted(chance.sample(range(2, 20), 2)):
        process = start(context, teacher, killed)
        reached.append(kill_after(process, killed, moment, chance.uniform(0, 0.05)))
    (killed / ".last.pth.tar.1.tmp").write_bytes(b"half")  # as a kill in the midst of a save leaves
    last = start(context, teacher, killed)
    last.join()
    assert last.exitcode == 0
    assert (killed / "steps.csv").read_text() == (whole / "steps.csv").read_text(), f"killed at {reached}"
    one, other = (torch.load(place / "last.pth.tar", weights_only=True) for place in (whole, killed))
    for part in ("state_dict", "state_dict_ema"):
        differ = [key for key, value in one[part].items() if not torch.equal(value, other[part][key])]
        assert not differ, f"{part}, killed at {reached}: {differ}"
    assert one["step"] == other["step"] == 24
    assert sorted(f.name for f in whole.iterdir()) == sorted(f.name for f in killed.iterdir())
