"""A distillation into a checkpoint and back, and the weights that it is all about."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ...diffusion import linearized
from ..runs.checkpoint import check_weights, progress, random_states, restore_progress
from ..runs.folder import refuse_other_run
from ..training.checkpoint import CheckpointFolder, load, written_by

WEIGHTS = "weights"
# what may change between a run and its continuation; everything else would give another run
MAY_DIFFER = {
    "resume", "output", "experiment", "device", "log_interval", "save_interval", "sample_interval", "samples",
    "sample_steps", "sample_guidance", "report_to", "max_steps", "data_dir", "cache", "shard_size",
    "encode_batch_size", "grad_checkpointing", "batch_size", "grad_accum_steps",
}  # fmt: skip


def save(run: Any) -> None:
    """Replace ``weights/`` and ``last.pth.tar``.

    Raises: OSError naming the file; Diverged when a weight is no number, and nothing is written.
    """
    check_weights(run, run.trained)
    ranks = random_states(run)
    if run.primary:
        write_weights(run)
        weights = {name: value.detach() for name, value in run.trained.items()}
        parts = {"pictures": run.plan.items, "state_dict": weights}
        if run.ema is not None:
            parts["state_dict_ema"] = averaged(run)
        CheckpointFolder(run.folder, 0, False).write(parts | progress(run, ranks))
    run.accelerator.wait_for_everyone()


def averaged(run: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in run.ema.module.named_parameters() if name in run.trained}


def write_weights(run: Any) -> None:
    """``weights/``, whole or as it was: what ``linearize(weights=...)`` takes, the average's if there is one.

    Without a swap it is a diffusers model with its scheduler. Where more than the swap was trained and the
    method keeps the swap only, all trained tensors are in ``trained.safetensors`` beside it.
    """
    model = run.best
    handle = linearized(model)

    def write(folder: Path) -> None:
        from safetensors.torch import save_file

        if handle is None:
            model.save_pretrained(folder)
            run.scheduler.save_pretrained(folder)
            return
        handle.save_pretrained(folder)
        if run.args.train == "all" and run.args.method != "lit":
            named = model.named_parameters()
            tensors = {name: p.detach().contiguous() for name, p in named if name in run.trained}
            save_file(tensors, folder / "trained.safetensors")

    replace_folder(run.folder / WEIGHTS, write)


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Raises: OSError naming the folder, which is what it was."""
    from safetensors import SafetensorError

    fresh, old = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        write(fresh)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = written_by(error) or str(error).splitlines()[0]
        raise OSError(f"cannot write {folder}: {reason}") from error


def read(path: Path) -> dict:
    """Raises: ValueError for a file that is damaged or no checkpoint of a distillation."""
    state = load(path)
    needed = {"state_dict", "optimizer", "args", "step", "pictures"}
    if not isinstance(state, dict) or not needed <= state.keys():
        raise ValueError(f"--resume must be a run of `linzoo distill`, {path} is none")
    return state


def check_same_run(state: Mapping[str, Any], path: Path, args: argparse.Namespace, pictures: int) -> None:
    """Raises: ValueError listing the flags in which this run differs from the checkpoint's."""
    free = MAY_DIFFER if args.sched.startswith("constant") else MAY_DIFFER - {"max_steps"}
    refuse_other_run(path, args, state["args"], free, ("pictures an update", state["pictures"], pictures))


@torch.no_grad()
def restore(run: Any, path: Path, state: dict) -> None:
    """The checkpoint into the run."""
    for name, value in state["state_dict"].items():
        run.trained[name].copy_(value)
    if run.ema is not None:
        parameters = dict(run.ema.module.named_parameters())
        for name, value in state["state_dict_ema"].items():
            parameters[name].copy_(value)
    restore_progress(run, path, state)
