"""What checkpoints of runs hold beside the weights: how far a run is, and everything that it goes on with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..training.checkpoint import find_bad_weight, plain_arguments
from ..training.loop import Diverged
from ..training.seeding import rng_state, set_rng_state
from .accelerator import gather
from .folder import last_good


def check_weights(run: Any, weights: Mapping[str, Tensor]) -> None:
    """Raises: Diverged naming a weight that is no number."""
    bad = find_bad_weight(weights)
    if bad is not None:
        raise Diverged(f"weight {bad} is NaN or infinite after step {run.step}; {last_good(run.folder)}")


def random_states(run: Any) -> list[Any]:
    """Of every process, by rank: all of them must ask."""
    return gather(run.accelerator, rng_state(run.device))


def progress(run: Any, ranks: list[Any]) -> dict[str, Any]:
    """Arguments, update, optimizer, schedule, ``ranks`` of ``random_states``, and fp16's scaler."""
    parts = {
        "version": 1,
        "args": plain_arguments(run.args),
        "step": run.step,
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "ranks": ranks,
    }
    if run.accelerator.scaler is not None:
        parts["scaler"] = run.accelerator.scaler.state_dict()
    return parts


def restore_progress(run: Any, path: Path, state: Mapping[str, Any]) -> None:
    """``progress`` into the run, and a line that says so."""
    run.optimizer.load_state_dict(state["optimizer"])
    run.schedule.load_state_dict(state["schedule"])
    if run.accelerator.scaler is not None and "scaler" in state:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    rank = run.accelerator.process_index
    if rank < len(state["ranks"]):
        set_rng_state(state["ranks"][rank], run.device)
    run.step = state["step"]
    run.log.say(f"Resumed from {path} at step {run.step}")
