"""A run into a checkpoint, and a checkpoint into a run."""

from __future__ import annotations

from pathlib import Path

from . import checkpoint
from .checkpoint import Progress
from .loop import Diverged, Run
from .seeding import rng_state, set_rng_state


def save(run: Run, metric: float | None = None) -> None:
    """Write ``last``. Raises: OSError; Diverged when a weight is no number, and nothing is written."""
    progress = run.progress
    bad = checkpoint.find_bad_weight(run.model.state_dict())
    if bad is not None:
        raise Diverged(f"weight {bad} is NaN or infinite after epoch {progress.epoch}, step {progress.step}")
    mine = {
        "rng": rng_state(run.world.device),
        "loss_sum": progress.loss_sum,
        "pictures": progress.pictures,
    }
    ranks = run.world.gather(mine)
    if not run.world.primary:
        return
    parts = {
        "state_dict": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "ranks": ranks,
    }
    if run.ema is not None:
        parts["state_dict_ema"] = run.ema.module.state_dict()
    if run.scheduler is not None:
        parts["scheduler"] = run.scheduler.state_dict()
    if run.scaler is not None:
        parts[run.scaler.state_dict_key] = run.scaler.state_dict()
    run.folder.write(checkpoint.pack(run.args, progress, metric, parts))


def restore(run: Run, path: Path, state: dict) -> None:
    """The checkpoint into model, optimizer, schedule, scaler, average, progress and generators."""
    progress = Progress(**state["progress"])
    run.model.load_state_dict(state["state_dict"])
    if run.ema is not None:
        run.ema.module.load_state_dict(state.get("state_dict_ema", state["state_dict"]))
    if path.parent.resolve() != run.folder.folder.resolve():
        progress.kept = []
    run.progress = progress
    if run.args.no_resume_opt:
        progress.step, progress.loss_sum, progress.pictures = 0, 0.0, 0
    else:
        run.optimizer.load_state_dict(state["optimizer"])
        if run.scheduler is not None and "scheduler" in state:
            run.scheduler.load_state_dict(state["scheduler"])
        if run.scaler is not None and run.scaler.state_dict_key in state:
            run.scaler.load_state_dict(state[run.scaler.state_dict_key])
        mine = state["ranks"][run.world.rank]
        progress.loss_sum, progress.pictures = mine["loss_sum"], mine["pictures"]
        set_rng_state(mine["rng"], run.world.device)
    where = f"epoch {progress.epoch}, step {progress.step}"
    if run.loaders.plan is None and progress.step:
        progress.step, progress.loss_sum, progress.pictures = 0, 0.0, 0
        where = f"the beginning of epoch {progress.epoch}: a stream cannot be taken up within"
    run.log.say(f"Resumed from {path} at {where}")


def last_good(run: Run) -> str:
    """Where to go on from, in words."""
    if not run.folder.last.exists():
        return "no checkpoint had been written"
    return f"the last good checkpoint is {run.folder.last} (--resume {run.folder.folder} goes on)"
