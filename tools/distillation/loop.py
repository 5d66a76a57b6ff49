"""The updates of a distillation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..runs.ending import report
from ..runs.plan import microbatches
from . import checkpoint
from .show import show


def train(run: Any) -> None:
    """From where the run is to --max-steps, then the last checkpoint and samples.

    Raises: Diverged, OSError.
    """
    args = run.args
    run.log.start(args.method, args.max_steps, run.step)
    begun = run.step
    while run.step < args.max_steps:
        ready(run)
        terms = update(run)
        run.log.advance()
        last = run.step == args.max_steps
        if last or run.step % args.log_interval == 0:
            report(run, terms, "Distill", args.max_steps)
        if last or run.step % args.save_interval == 0:
            checkpoint.save(run)
        if args.samples and (last or (args.sample_interval and run.step % args.sample_interval == 0)):
            show(run)
    run.log.end()
    if begun == run.step:
        run.log.say(f"Nothing to do: {run.folder} has made its {run.step} updates (--max-steps)")


def ready(run: Any) -> None:
    """Training mode, but for the embeddings that would drop classes themselves: the batches do that."""
    run.net.train()
    for module in run.student.modules():
        if type(module).__name__ == "LabelEmbedding":
            module.eval()


def update(run: Any) -> dict[str, Tensor]:
    """One update over its accumulated steps; returns the means of the terms, this process's."""
    args, accelerator = run.args, run.accelerator
    items = run.plan.update(run.step)
    parts = microbatches(items, accelerator.process_index, accelerator.num_processes, args.batch_size)
    sums: dict[str, Tensor] = {}
    for part in parts:
        batch = run.batches.make(part)
        with accelerator.accumulate(run.net):
            with accelerator.autocast():
                terms = run.objective.losses(run.net, run.student, run.teacher, batch)
            accelerator.backward(terms["loss"])
            if accelerator.sync_gradients and args.clip_grad is not None:
                sums["grad_norm"] = accelerator.clip_grad_norm_(run.trained.values(), args.clip_grad)
            run.optimizer.step()
            run.optimizer.zero_grad()
        for name, value in terms.items():
            sums[name] = sums.get(name, 0) + value.detach() / len(parts)
    run.step += 1
    if not accelerator.optimizer_step_was_skipped:
        run.schedule.step()
    if run.ema is not None:
        run.ema.update(run.student, step=run.step)
    return sums
