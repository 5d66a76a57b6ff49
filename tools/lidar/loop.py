"""The updates of a training, and its validations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from ..runs.ending import report
from . import checkpoint
from .batches import Batch, UpdateBatches, collate
from .evaluate import evaluate


def train(run: Any) -> None:
    """From where the run is to its last update, then the last checkpoint and validation.

    Raises: Diverged, OSError.
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
        if last or run.step % args.save_interval == 0:
            checkpoint.save(run)
        epoch, within = divmod(run.step, run.plan.updates)
        if not last and args.val_interval and within == 0 and epoch % args.val_interval == 0:
            validate(run)
    run.log.end()
    if begun == run.step:
        run.log.say(f"Nothing to do: {run.folder} has made its {run.step} updates")
    elif not args.no_validation:
        validate(run)


def load(run: Any) -> Iterator[Batch]:
    """This process's batches, a step each, from where the run is."""
    args, accelerator = run.args, run.accelerator
    place = accelerator.process_index, accelerator.num_processes, args.batch_size
    loader = DataLoader(
        run.frames,
        batch_sampler=UpdateBatches(run.plan, run.step, run.last, *place),
        collate_fn=collate,
        num_workers=args.workers,
        pin_memory=run.device.type == "cuda",
    )
    return iter(loader)


def update(run: Any, batches: Iterator[Batch]) -> dict[str, Tensor]:
    """One update over its accumulated steps; returns the means of the terms, this process's."""
    args, accelerator = run.args, run.accelerator
    sums: dict[str, Any] = {"loss": 0}
    for _ in range(args.grad_accum_steps):
        batch = next(batches).to(run.device)
        with accelerator.accumulate(run.net):
            with accelerator.autocast():
                terms = run.net(batch.points, batch.labels)
            loss = sum(terms.values())
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                sums["grad_norm"] = accelerator.clip_grad_norm_(run.net.parameters(), args.clip_grad)
            run.optimizer.step()
            run.optimizer.zero_grad()
        for name, value in {"loss": loss, **terms}.items():
            sums[name] = sums.get(name, 0) + value.detach() / args.grad_accum_steps
    run.step += 1
    if not accelerator.optimizer_step_was_skipped:
        run.schedule.step()
    return sums


def validate(run: Any) -> None:
    """The first process's validation, written to metrics.json beside the checkpoint."""
    if run.primary:
        run.metrics = evaluate(run.model, run.validation, run.device, run.log, run.args.batch_size)
        checkpoint.write_metrics(run)
    run.accelerator.wait_for_everyone()
