"""The detectors of the street scenes: how each is trained, and the weights that the demo begins with."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import write_atomic

RECIPES = {
    "lion_retnet": "street_lion_retnet",
    "lion_mamba": "street_lion_mamba",
    "scatterformer": "street_scatterformer",
    "lion_retnet_pasted": "street_lion_retnet_pasted",
    "lion_mamba_pasted": "street_lion_mamba_pasted",
    "scatterformer_pasted": "street_scatterformer_pasted",
}
SEEDS = (0, 1, 2)
START = Path(__file__).parents[1] / "weights" / "lion_retnet_small.safetensors"
START_SEED = 100  # not one of SEEDS
START_UPDATES = 240  # of the recipe's 400: the demo shows what the last ones do


def train_one(
    name: str, output: Path, *, seed: int, device: str = "auto", workers: int = 0, **flags: Any
) -> tuple[Any, float]:
    """``linzoo train`` in ``output``/NAME-SEED, or what is left of it after a kill.

    Args:
        flags: further flags of ``linzoo train``, with underscores.
    Returns: the finished run, and the seconds since this call began: this process's CPU time for a run on
        the CPU, else wall time.
    """
    from ..lidar.session import train_detector
    from ..train_lidar import parse

    given = {
        "output": output, "experiment": f"{name}-{seed}", "resume": "auto", "seed": seed, "device": device,
        "workers": workers, "log_interval": 50,
    } | flags  # fmt: skip
    words = [word for flag, value in given.items() for word in (f"--{flag.replace('_', '-')}", str(value))]
    wall, processor = time.perf_counter(), time.process_time()
    run = train_detector(parse([RECIPES[name], "--no-validation", *words]))
    on_cpu = run.device.type == "cpu"
    return run, time.process_time() - processor if on_cpu else time.perf_counter() - wall


def make_start(output: Path, device: str, workers: int) -> None:
    """Train LION-RetNet once more, with a seed of its own, and replace the committed weights."""
    run, _ = train_one(
        "lion_retnet",
        output / "start",
        seed=START_SEED,
        device=device,
        workers=workers,
        max_steps=START_UPDATES,
    )
    write_start(run.model.state_dict(), START)


def write_start(weights: dict[str, Tensor], path: Path) -> None:
    """float16: half the bytes, and the demo trains on from there."""
    from safetensors.torch import save

    half = {n: (t.half() if t.is_floating_point() else t).cpu().contiguous() for n, t in weights.items()}
    write_atomic(path, save(half))


def read_start(path: Path = START) -> dict[str, Tensor]:
    """The committed weights, float32."""
    from safetensors.torch import load_file

    return {n: t.float() if t.dtype == torch.float16 else t for n, t in load_file(path).items()}
