"""A detector's training into a checkpoint and back."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...pointcloud import Detector
from ...pointcloud.checkpoints import check_fit
from ..runs.checkpoint import check_weights, progress, random_states, restore_progress
from ..runs.folder import refuse_other_run
from ..training.checkpoint import CheckpointFolder, load

METRICS = "metrics.json"
# what may change between a run and its continuation; everything else would give another run
MAY_DIFFER = {
    "resume", "output", "experiment", "device", "log_interval", "save_interval", "val_interval",
    "no_validation", "val_split", "val_scenes", "report_to", "max_steps", "data_dir", "workers",
    "batch_size", "grad_accum_steps", "initial_checkpoint", "prepared",
}  # fmt: skip


def save(run: Any) -> None:
    """Replace ``last.pth.tar``.

    Raises: OSError naming the file; Diverged when a weight is no number, and nothing is written.
    """
    weights = run.model.state_dict()
    check_weights(run, weights)
    ranks = random_states(run)
    if run.primary:
        parts = {"detector": run.args.detector, "items": run.plan.items, "state_dict": weights}
        CheckpointFolder(run.folder, 0, False).write(parts | progress(run, ranks))
    run.accelerator.wait_for_everyone()


def read(path: Path) -> dict:
    """Raises: ValueError for a file that is damaged or no checkpoint of a detector's training."""
    state = load(path)
    tables = ("state_dict", "optimizer", "schedule", "args")
    needed = {"detector": str, "step": int, "items": int, **dict.fromkeys(tables, Mapping)}
    whole = isinstance(state, dict) and all(isinstance(state.get(k), kind) for k, kind in needed.items())
    if not whole or "param_groups" not in state["optimizer"]:
        raise ValueError(
            f"--resume must be a run of `linzoo train` of a LiDAR detector, {path} is none; "
            "--initial-checkpoint takes weights"
        )
    return state


def check_same_run(
    state: Mapping[str, Any], path: Path, args: argparse.Namespace, items: int, model: Detector
) -> None:
    """Raises: ValueError listing the flags, or the tensors, in which this run is not the checkpoint's."""
    refuse_other_run(path, args, state["args"], MAY_DIFFER, ("frames an update", state["items"], items))
    check_fit(model, state["state_dict"], f"--resume: {path}")


def restore(run: Any, path: Path, state: dict) -> None:
    """The checkpoint into the run."""
    run.model.load_state_dict(state["state_dict"])
    restore_progress(run, path, state)
