"""A detector's training into a checkpoint and back."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runs.accelerator import gather
from ..runs.folder import last_good, refuse_other_run
from ..training.checkpoint import CheckpointFolder, find_bad_weight, load, plain_arguments
from ..training.loop import Diverged
from ..training.seeding import rng_state, set_rng_state

METRICS = "metrics.json"
# what may change between a run and its continuation; everything else would give another run
MAY_DIFFER = {
    "resume", "output", "experiment", "device", "log_interval", "save_interval", "val_interval",
    "no_validation", "val_split", "val_scenes", "report_to", "max_steps", "data_dir", "workers",
    "batch_size", "grad_accum_steps", "initial_checkpoint",
}  # fmt: skip


def save(run: Any) -> None:
    """Replace ``last.pth.tar``.

    Raises: OSError naming the file; Diverged when a weight is no number, and nothing is written.
    """
    weights = run.model.state_dict()
    bad = find_bad_weight(weights)
    if bad is not None:
        raise Diverged(f"weight {bad} is NaN or infinite after step {run.step}; {last_good(run.folder)}")
    ranks = gather(run.accelerator, rng_state(run.device))
    if run.primary:
        parts = {
            "version": 1,
            "detector": run.args.detector,
            "args": plain_arguments(run.args),
            "step": run.step,
            "items": run.plan.items,
            "state_dict": weights,
            "optimizer": run.optimizer.state_dict(),
            "schedule": run.schedule.state_dict(),
            "ranks": ranks,
        }
        if run.accelerator.scaler is not None:
            parts["scaler"] = run.accelerator.scaler.state_dict()
        CheckpointFolder(run.folder, 0, False).write(parts)
    run.accelerator.wait_for_everyone()


def read(path: Path) -> dict:
    """Raises: ValueError for a file that is damaged or no checkpoint of a detector's training."""
    state = load(path)
    needed = {"detector", "state_dict", "optimizer", "schedule", "args", "step", "items"}
    if not isinstance(state, dict) or not needed <= state.keys():
        raise ValueError(
            f"--resume must be a run of `linzoo train` of a LiDAR detector, {path} is none; "
            "--initial-checkpoint takes weights"
        )
    return state


def check_same_run(state: Mapping[str, Any], path: Path, args: argparse.Namespace, items: int) -> None:
    """Raises: ValueError listing the flags in which this run differs from the checkpoint's."""
    refuse_other_run(path, args, state["args"], MAY_DIFFER, ("frames an update", state["items"], items))


def restore(run: Any, path: Path, state: dict) -> None:
    """The checkpoint into the run."""
    run.model.load_state_dict(state["state_dict"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.schedule.load_state_dict(state["schedule"])
    if run.accelerator.scaler is not None and "scaler" in state:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    rank = run.accelerator.process_index
    if rank < len(state["ranks"]):
        set_rng_state(state["ranks"][rank], run.device)
    run.step = state["step"]
    run.log.say(f"Resumed from {path} at step {run.step}")
