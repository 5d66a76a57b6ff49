"""The students: what each is, how it is trained, what it draws."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..demo.context import one_thread
from .data import CLASSES
from .teacher import WEIGHTS


@dataclass(frozen=True, slots=True)
class Student:
    """Args: recipe: in configs/diffusion. label: what it is, in few words."""

    recipe: str
    label: str


STUDENTS = {
    "lit": Student("digits_lit", "LiT, inherited and distilled"),
    "scratch": Student("digits_lit_scratch", "LiT from scratch"),
    "clear": Student("digits_clear", "CLEAR, radius 3"),
    "linear": Student("digits_linear", "plain linear, no convolution"),
}


def train_student(name: str, output: Path, *, steps: int, seed: int, **flags: Any) -> tuple[Any, float]:
    """``linzoo distill`` on one thread in ``output``/NAME-SEED, or what is left of it after a kill.

    Args:
        flags: further flags of ``linzoo distill``, with underscores.
    Returns: the finished run, and its CPU seconds since this call began.
    """
    from ..distill import parse
    from ..distillation.session import distill

    given = {
        "teacher": WEIGHTS, "output": output, "experiment": f"{name}-{seed}", "resume": "auto",
        "max_steps": steps, "seed": seed, "device": "cpu", "log_interval": steps, "samples": 0,
    } | flags  # fmt: skip
    words = [word for flag, value in given.items() for word in (f"--{flag.replace('_', '-')}", str(value))]
    began = time.process_time()
    with one_thread():
        run = distill(parse([STUDENTS[name].recipe, *words]))
    return run, time.process_time() - began


def draw(
    model: nn.Module, scheduler: Any, labels: Tensor, *, steps: int, guidance: float, seed: int
) -> Tensor:
    """A picture a label, (n, 1, 8, 8); one seed gives every model the same noise."""
    from ..distillation.sampling import sample

    words = {"shape": (1, 8, 8), "steps": steps, "guidance": guidance, "seed": seed}
    with one_thread():
        return sample(model, scheduler, {"labels": labels}, **words).clamp(-1, 1)


def sheet_labels(rows: int) -> Tensor:
    """The classes of a sheet: a column a digit."""
    return torch.arange(CLASSES).repeat(rows)


def sheet(pictures: Tensor, enlarged: int = 4) -> Any:
    """(rows * 10, 1, 8, 8) -> uint8 pixels of ten columns, ink dark, a gap of a pixel between."""
    tiles = torch.nn.functional.pad(((1 - pictures) * 127.5).clamp(0, 255), (0, 1, 0, 1), value=255.0)
    tiles = tiles.unflatten(0, (-1, CLASSES))[:, :, 0]  # (rows, 10, 9, 9)
    pixels = tiles.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)[:-1, :-1].round().byte().numpy()
    return pixels.repeat(enlarged, 0).repeat(enlarged, 1)


def untrained(name: str, seed: int) -> nn.Module:
    """The student as ``train_student`` starts it."""
    from ..distill import parse
    from ..distillation.student import make_student
    from ..distillation.teacher import load_teacher
    from ..training.seeding import Use, seed_all

    args = parse([STUDENTS[name].recipe, "--teacher", str(WEIGHTS), "--seed", str(seed), "--device", "cpu"])
    with torch.random.fork_rng(devices=[]):
        seed_all((args.seed, Use.MODEL), torch.device("cpu"))
        return make_student(args, load_teacher(args, half=False).model, share=False).model.eval()
