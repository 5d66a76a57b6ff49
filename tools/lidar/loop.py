"""The updates of a training, and its validations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..files import read_json, write_json
from ..runs.ending import report
from ..runs.folder import last_good
from ..training.batches import DataError
from ..training.checkpoint import find_bad_weight
from ..training.loop import Diverged
from . import checkpoint
from .batches import Batch, UpdateBatches, collate
from .evaluate import detect_all, finite_or_none, shown


def train(run: Any) -> None:
    """From where the run is to its last update, then the last checkpoint and validation.

    Raises: Diverged; OSError.
    """
    args = run.args
    begun = run.step
    run.log.start(args.detector, run.last, run.step)
    batches = load(run)
    while run.step < run.last:
        run.net.train()
        terms = update(run, batches)
        run.log.advance()
        last = run.step == run.last
        if last or run.step % args.log_interval == 0:
            report(run, terms, "Train", run.last)
        if run.step < run.updates and not run.accelerator.optimizer_step_was_skipped:
            run.schedule.step()  # after the report, which tells the rate that the update had
        if last or run.step % args.save_interval == 0:
            checkpoint.save(run)
        epoch, within = divmod(run.step, run.plan.updates)
        if not last and args.val_interval and within == 0 and epoch % args.val_interval == 0:
            validate(run)
    run.log.end()
    if begun == run.step:
        run.log.say(f"Nothing to do: {run.folder} has made its {run.step} updates")
    judged = (read_json(run.folder / checkpoint.METRICS) or {}).get("step") == run.step
    if not args.no_validation and not judged:
        validate(run)


def load(run: Any) -> Iterator[Batch]:
    """This process's batches, a step each, from where the run is.

    Raises: DataError, while they are read.
    """
    args, accelerator = run.args, run.accelerator
    place = accelerator.process_index, accelerator.num_processes, args.batch_size
    loader = DataLoader(
        run.frames,
        batch_sampler=UpdateBatches(run.plan, run.step, run.last, *place),
        collate_fn=collate,
        num_workers=args.workers,
        pin_memory=run.device.type == "cuda",
        generator=torch.Generator(),  # else each start of a run would draw from the model's
    )
    try:
        yield from loader
    except DataError as error:
        raise DataError.without_traceback(error) from error


def update(run: Any, batches: Iterator[Batch]) -> dict[str, Tensor]:
    """One update over its accumulated steps; returns the means of the terms, this process's."""
    args, accelerator = run.args, run.accelerator
    sums: dict[str, Any] = {"loss": 0}
    for _ in range(args.grad_accum_steps):
        batch = next(batches).to(run.device)
        with accelerator.accumulate(run.net):
            with accelerator.autocast():
                terms = losses(run, batch)
            loss = sum(terms.values())
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                sums["grad_norm"] = accelerator.clip_grad_norm_(run.net.parameters(), args.clip_grad)
            run.optimizer.step()
            run.optimizer.zero_grad()
        for name, value in {"loss": loss, **terms}.items():
            sums[name] = sums.get(name, 0) + value.detach() / args.grad_accum_steps
    run.step += 1
    return sums


def losses(run: Any, batch: Batch) -> dict[str, Tensor]:
    """The detector's terms. Raises: Diverged where boxes of a detector that is lost are refused."""
    try:
        return run.net(batch.points, batch.labels)
    except ValueError as error:
        if find_bad_weight(run.model.state_dict()) is None and "must be finite" not in str(error):
            raise
        raise Diverged(
            f"weights or boxes are NaN or infinite after step {run.step}; {last_good(run.folder)}"
        ) from error


def validate(run: Any) -> None:
    """Every process detects in its part of the frames; the first one scores them: metrics.json."""
    found, labels = detect_all(run)
    if run.primary:
        run.metrics = run.validation.score(found, labels)
        run.log.say(f"Test: [{len(found)} frames]  {shown(run.metrics)}")
        write_json(run.folder / checkpoint.METRICS, {"step": run.step, **finite_or_none(run.metrics)})
    run.accelerator.wait_for_everyone()
