"""One epoch of training, one pass of validation."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3, NativeScaler, dispatch_clip_grad
from torch import Tensor, nn

from .batches import DataError
from .checkpoint import CheckpointFolder, Progress
from .loaders import Loaders, input_dtype
from .log import Log
from .optim import autocast, model_parameters
from .seeding import Use, apart
from .world import World


class Diverged(ArithmeticError):
    """The loss or a weight is NaN or infinite: there is no use in going on."""


@dataclass(slots=True)
class Run:
    """Everything a training run is made of.

    Args:
        model: the model itself, whose weights are saved.
        net: what is called: the model, within DistributedDataParallel and torch.compile where asked for.
        no_sync: a context in which gradients stay in their process.
        epochs: with warm-up prefix and cool-down.
    """

    args: argparse.Namespace
    world: World
    model: nn.Module
    net: Callable[[Tensor], Tensor]
    no_sync: Callable[[], Any]
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler | None
    epochs: int
    scaler: NativeScaler | None
    ema: ModelEmaV3 | None
    loaders: Loaders
    log: Log
    folder: CheckpointFolder
    progress: Progress

    @property
    def finished(self) -> bool:
        most = self.args.max_steps
        return self.progress.epoch >= self.epochs or (most is not None and self.progress.steps >= most)


def to_device(run: Run, batch: Any) -> tuple[Tensor, Tensor]:
    """The batch where the model is, in its layout and type."""
    pictures, targets = batch
    if run.args.no_prefetcher:
        pictures = pictures.to(run.world.device, input_dtype(run.args), non_blocking=run.args.pin_mem)
        targets = targets.to(run.world.device, non_blocking=run.args.pin_mem)
    if run.args.channels_last:
        pictures = pictures.contiguous(memory_format=torch.channels_last)
    return pictures, targets


def mix(run: Run, pictures: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mixup and cutmix on the device, where they were not part of putting the batch together."""
    mixup, progress = run.loaders.mixup, run.progress
    if mixup is None:
        return pictures, targets
    mixup.mixup_enabled = not run.args.mixup_off_epoch or progress.epoch < run.args.mixup_off_epoch
    with apart(run.args.seed, Use.MIX, progress.epoch, progress.step, run.world.rank):
        return mixup(pictures, targets)


def train_step(run: Run, pictures: Tensor, targets: Tensor, window: int, update: bool) -> Tensor:
    """Forward, backward and, at the end of ``window`` accumulated steps, the update; returns the loss."""
    args = run.args
    with nullcontext() if update else run.no_sync():
        with autocast(args, run.world.device):
            output = run.net(pictures)
            loss = run.loss(output[0] if isinstance(output, tuple | list) else output, targets)
        second_order = getattr(run.optimizer, "is_second_order", False)
        if run.scaler is not None:
            run.scaler(
                loss / window,
                run.optimizer,
                clip_grad=args.clip_grad,
                clip_mode=args.clip_mode,
                parameters=model_parameters(run.model, args.clip_mode),
                create_graph=second_order,
                need_update=update,
            )
        else:
            (loss / window).backward(create_graph=second_order)
            if update:
                if args.clip_grad is not None:
                    dispatch_clip_grad(
                        model_parameters(run.model, args.clip_mode), args.clip_grad, mode=args.clip_mode
                    )
                run.optimizer.step()
    if update:
        run.optimizer.zero_grad()
        run.progress.update += 1
        if run.ema is not None:
            run.ema.update(run.model, step=run.progress.update)
    return loss.detach()


class Meter:
    """The mean loss of an epoch, summed on the device: reading it would wait for the device in every step."""

    def __init__(self, run: Run) -> None:
        wide = torch.float32 if run.world.device.type == "mps" else torch.float64
        self.sum = torch.tensor(run.progress.loss_sum, dtype=wide, device=run.world.device)
        self.began, self.seen = time.perf_counter(), 0

    def add(self, run: Run, loss: Tensor, pictures: int) -> None:
        self.sum += loss.to(self.sum.dtype) * pictures
        self.seen += pictures
        run.progress.pictures += pictures

    def read(self, run: Run, loss: Tensor) -> tuple[float, float]:
        """(this step's loss, the epoch's mean so far), over all processes. Raises: Diverged."""
        size = run.world.size
        mine = torch.stack([loss.to(self.sum.dtype), self.sum, self.sum.new_tensor(run.progress.pictures)])
        step_loss, total, pictures = run.world.total(mine).tolist()
        mean = total / max(pictures, 1)
        if not (abs(step_loss) < float("inf") and abs(mean) < float("inf")):
            progress = run.progress
            raise Diverged(f"the loss is NaN or infinite at epoch {progress.epoch}, step {progress.step - 1}")
        return step_loss / size, mean


def take_step(run: Run, batch: Any) -> tuple[Tensor, int, bool]:
    """One step; returns its loss, its pictures, and whether the weights were updated."""
    step, steps, accumulate = run.progress.step, run.loaders.steps, run.args.grad_accum_steps
    pictures, targets = mix(run, *to_device(run, batch))
    last_window = steps % accumulate or accumulate
    window = last_window if step >= steps - last_window else accumulate
    update = step == steps - 1 or (step + 1) % accumulate == 0
    loss = train_step(run, pictures, targets, window, update)
    if update and run.scheduler is not None:
        run.scheduler.step_update(run.progress.update)
    if run.args.synchronize_step and run.world.device.type != "cpu":
        torch.accelerator.synchronize()
    return loss, len(pictures), update


def train_epoch(run: Run, save: Callable[[], None]) -> float | None:
    """Train to the end of the epoch, from where the progress says.

    Args:
        save: writes ``last`` within the epoch.
    Returns: the epoch's mean loss; None when --max-steps was reached before its end.
    Raises: Diverged; DataError for a picture that cannot be read.
    """
    args, progress, steps = run.args, run.progress, run.loaders.steps
    run.model.train()
    run.loaders.set_epoch(progress.epoch, progress.step)
    run.optimizer.zero_grad()
    run.log.start(f"epoch {progress.epoch}", steps, progress.step)
    meter, saved, mean = Meter(run), progress.step, None
    for batch in run.loaders.train:
        loss, pictures, update = take_step(run, batch)
        meter.add(run, loss, pictures)
        progress.step += 1
        progress.steps += 1
        run.log.advance()
        final = progress.step == steps
        stop = update and args.max_steps is not None and progress.steps >= args.max_steps
        if final or stop or progress.step % args.log_interval == 0:
            mean = report(run, meter, loss)
        if final:
            break
        if stop or (update and args.recovery_interval and progress.step - saved >= args.recovery_interval):
            progress.loss_sum, saved = meter.sum.item(), progress.step
            save()
        if stop:
            run.log.end()
            return None
    run.log.end()
    if mean is None:
        raise DataError(f"the training part gave {progress.step} batches in epoch {progress.epoch}, too few")
    return mean


def report(run: Run, meter: Meter, loss: Tensor) -> float:
    """A log line in timm's form and a row of steps.csv; returns the epoch's mean loss so far."""
    progress, steps = run.progress, run.loaders.steps
    step_loss, mean = meter.read(run, loss)
    lr = run.optimizer.param_groups[0]["lr"]
    seconds = time.perf_counter() - meter.began
    run.log.say(
        f"Train: {progress.epoch} [{progress.step:>4d}/{steps} ({100 * progress.step / steps:>3.0f}%)]  "
        f"Loss: {step_loss:#.3g} ({mean:#.3g})  "
        f"{meter.seen * run.world.size / seconds:>7.1f} pictures/s  LR: {lr:.3e}"
    )
    run.log.row(
        {
            "steps": progress.steps,
            "epoch": progress.epoch,
            "step": progress.step - 1,
            "loss": step_loss,
            "lr": lr,
        }
    )
    return mean


@torch.inference_mode()
def evaluate(run: Run, model: nn.Module, name: str = "Test") -> dict[str, float]:
    """Cross-entropy and top-1, top-5 accuracy in % over the validation part, each picture counted once."""
    model.eval()
    device = run.world.device
    sums = torch.zeros(4, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    for batch in run.loaders.evaluation:
        pictures, targets = to_device(run, batch)
        with autocast(run.args, device):
            output = model(pictures)
        output = (output[0] if isinstance(output, tuple | list) else output).float()
        best = output.topk(min(5, output.shape[1]), dim=1).indices.eq(targets[:, None])
        sums[0] += F.cross_entropy(output, targets, reduction="sum")
        sums[1] += best[:, 0].sum()
        sums[2] += best.sum()
        sums[3] += len(targets)
    loss, top1, top5, count = run.world.total(sums).tolist()
    count = max(count, 1)
    figures = {"loss": loss / count, "top1": 100 * top1 / count, "top5": 100 * top5 / count}
    run.log.say(
        f"{name}: [{count:.0f} pictures]  Loss: {figures['loss']:>6.3f}  Acc@1: {figures['top1']:>7.3f}  "
        f"Acc@5: {figures['top5']:>7.3f}"
    )
    return figures
