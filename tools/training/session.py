"""A training run from its flags to its last line: refuse what cannot work, build, train, conclude."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from timm.utils import distribute_bn
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..files import check_writable, remove_leftovers, write_atomic
from . import checkpoint
from .checkpoint import CheckpointFolder, Progress
from .checks import check_arguments
from .curve import draw_curve
from .datasets import Datasets, open_datasets
from .joined_norm import join_batch_norms
from .loaders import data_config, make_loaders
from .log import Log
from .loop import Diverged, Run, evaluate, train_epoch
from .model import build_model
from .objective import make_loss
from .optim import make_ema, make_optimizer, make_scaler, make_schedule, resolve_rates
from .run_folder import choose_folder
from .saving import last_good, restore, save
from .seeding import Use, seed_all
from .world import World, join_world, leave_world


def train(args: argparse.Namespace) -> int:
    """Run ``linzoo train``; returns the exit status.

    Raises: ValueError, OSError, ImportError for what cannot be done or has gone wrong on the way; 1 is
        returned when the loss or a weight became NaN or infinite.
    """
    check_arguments(args)
    args.data_dir = args.data or args.data_dir  # DIR wins over a recipe's data_dir
    world = join_world(args.device)
    check_machine(args, world)
    log = Log(world.primary, args.report_to)
    run, resumed = prepare(args, world, log)
    start(run, resumed)
    try:
        loop(run)
    except Diverged as error:
        print(f"linzoo train: {error}; {last_good(run)}", file=sys.stderr)
        return 1
    except (OSError, torch.OutOfMemoryError) as error:
        raise OSError(f"{str(error).splitlines()[0]}; {last_good(run)}") from error
    except RuntimeError as error:
        if not world.lost_another(error):
            raise
        raise OSError(f"another process ended, its own line says why; {last_good(run)}") from error
    except KeyboardInterrupt:
        log.say(f"Stopped; {last_good(run)}")
        raise
    finally:
        log.close()
    conclude(run)
    leave_world()
    return 0


def check_machine(args: argparse.Namespace, world: World) -> None:
    """Raises: ValueError."""
    if args.torchcompile:
        backends = torch.compiler.list_backends(exclude_tags=())
        if args.torchcompile not in backends:
            raise ValueError(
                f"--torchcompile must be a backend of torch.compile, one of {', '.join(backends)}; "
                f"got {args.torchcompile}"
            )
    if args.aug_repeats and world.size == 1 and args.aug_repeats < 1:
        raise ValueError(f"--aug-repeats must be 0 or at least 1, got {args.aug_repeats}")


def prepare(args: argparse.Namespace, world: World, log: Log) -> tuple[Run, tuple[Path, dict] | None]:
    """Everything built, nothing written; the checkpoint to go on from, if there is one, read and checked."""
    folder, path = choose_folder(args, world)
    datasets = open_datasets(args)
    args.num_classes = count_classes(args, datasets, log)
    lines = resolve_rates(args, world.size)
    resumed = None
    if path is not None:
        state = checkpoint.read(path)
        checkpoint.check_same_run(state, path, args, world.size)
        resumed = (path, state)
    seed_all((args.seed, Use.MODEL), world.device)
    model, said = build_model(args, args.num_classes)
    config = data_config(args, model)
    loaders = make_loaders(args, datasets, config, args.num_classes, world)
    run = assemble(args, world, log, folder, model, loaders)
    seed_all((args.seed, Use.MODEL, world.rank), world.device)
    parameters = sum(p.numel() for p in model.parameters())
    log.say(
        f"{args.model}: {parameters:,} parameters, {args.num_classes} classes, input "
        f"{'x'.join(map(str, config['input_size']))}; {world.size} process(es) on {world.device.type}, "
        f"{loaders.steps} steps of {args.batch_size * world.size} pictures an epoch, {run.epochs} epochs"
    )
    for line in said + lines:
        log.say(line)
    return run, resumed


def count_classes(args: argparse.Namespace, datasets: Datasets, log: Log) -> int:
    """Raises: ValueError when flag and data set disagree, or neither says."""
    have = datasets.num_classes
    if args.num_classes is None:
        if have is None:
            raise ValueError(
                "--num-classes must be given: this data set does not say how many classes it has"
            )
        return have
    if have is not None and have != args.num_classes:
        raise ValueError(f"--num-classes must be the data set's {have}, got {args.num_classes}")
    return args.num_classes


def assemble(
    args: argparse.Namespace, world: World, log: Log, folder: Path, model: nn.Module, loaders: Any
) -> Run:
    """Model on its device, wrapped; optimizer, schedule, average."""
    if args.sync_bn and world.size > 1:
        model = join_batch_norms(model, world.device)
    model.to(world.device, getattr(torch, args.model_dtype) if args.model_dtype else None)
    if args.channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(args, model)
    ema = make_ema(args, model)
    net: nn.Module = model
    no_sync: Callable[[], Any] = nullcontext
    if world.size > 1:
        net = DistributedDataParallel(model, **ddp_words(args, world))
        no_sync = net.no_sync
    if args.torchcompile:
        net = torch.compile(net, backend=args.torchcompile, mode=args.torchcompile_mode)
    updates = -(-loaders.steps // args.grad_accum_steps)
    scheduler, epochs = make_schedule(args, optimizer, updates)
    return Run(
        args=args,
        world=world,
        model=model,
        net=net,
        no_sync=no_sync,
        loss=make_loss(args).to(world.device),
        optimizer=optimizer,
        scheduler=scheduler,
        epochs=epochs,
        scaler=make_scaler(args, world.device),
        ema=ema,
        loaders=loaders,
        log=log,
        folder=CheckpointFolder(folder, args.checkpoint_hist, args.eval_metric == "loss"),
        progress=Progress(),
    )


def ddp_words(args: argparse.Namespace, world: World) -> dict[str, Any]:
    """DistributedDataParallel's words; torch 2.14 has a new one for buffers and warns of the old."""
    words: dict[str, Any] = {} if world.device.type == "cpu" else {"device_ids": [world.device.index]}
    if args.no_ddp_bb:
        known = inspect.signature(DistributedDataParallel).parameters
        words["forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"] = False
    return words


def start(run: Run, resumed: tuple[Path, dict] | None) -> None:
    """Take up the checkpoint, if there is one, then make the folder and write the flags into it."""
    args, progress = run.args, run.progress
    if resumed is not None:
        restore(run, *resumed)
        progress = run.progress
    if args.start_epoch is not None:
        progress.epoch, progress.step = args.start_epoch, 0
    if run.scheduler is not None and progress.epoch and (resumed is None or args.no_resume_opt):
        run.scheduler.step(progress.epoch)
        run.scheduler.step_update(progress.update)
    if run.world.primary:
        folder = run.folder.folder
        check_writable(folder, "--output")
        remove_leftovers(folder)
        text = yaml.safe_dump(checkpoint.plain_arguments(args), default_flow_style=False)
        write_atomic(folder / "args.yaml", text.encode())
        if resumed is not None and resumed[0] == run.folder.last and progress.step == 0 and progress.epoch:
            run.folder.settle(progress)  # a kill between the writing and the numbering
    run.log.open_run(run.folder.folder, progress.steps, progress.history)


def loop(run: Run) -> None:
    """Epochs until the last, or --max-steps."""
    while not run.finished:
        mean = train_epoch(run, partial(save, run))
        if mean is None:
            return
        finish_epoch(run, mean)


def finish_epoch(run: Run, mean: float) -> None:
    """Validate, step the schedule, save, and write the epoch's row."""
    args, progress = run.args, run.progress
    row = {"epoch": progress.epoch, "train_loss": mean} | validate(run)
    row["lr"] = sum(group["lr"] for group in run.optimizer.param_groups) / len(run.optimizer.param_groups)
    metric = row.get(f"eval_{args.eval_metric}")
    if run.scheduler is not None:
        run.scheduler.step(progress.epoch + 1, metric)
    run.folder.rank(progress, progress.epoch, metric)
    progress.epoch, progress.step, progress.loss_sum, progress.pictures = progress.epoch + 1, 0, 0.0, 0
    progress.history.append(row)
    save(run, metric)
    if run.world.primary:
        run.folder.settle(progress)
        run.log.epoch(row, progress.steps)
    run.world.wait()


def validate(run: Run) -> dict[str, float]:
    """The validation figures of a row of summary.csv; with a moving average, its own and the model's."""
    args, several = run.args, run.world.size > 1 and run.args.dist_bn
    if several:
        distribute_bn(run.model, run.world.size, reduce=args.dist_bn == "reduce")
    if run.loaders.evaluation is None:
        return {}
    figures = evaluate(run, run.model)
    row = {f"eval_{name}": value for name, value in figures.items()}
    if run.ema is not None and not args.model_ema_force_cpu:
        if several:
            distribute_bn(run.ema.module, run.world.size, reduce=args.dist_bn == "reduce")
        averaged = evaluate(run, run.ema.module, "Test (EMA)")
        row = {f"eval_{name}": value for name, value in averaged.items()}
        row |= {f"eval_model_{name}": value for name, value in figures.items()}
    return row


def conclude(run: Run) -> None:
    """The curve, and the last lines."""
    progress, folder = run.progress, run.folder.folder
    if not run.world.primary:
        return
    if progress.history:
        try:
            draw_curve(folder / "curve.png", progress.history, run.args.model)
        except ImportError as error:
            run.log.say(f"curve.png is not drawn: {error}")
    if progress.best_metric is not None:
        run.log.say(f"*** Best metric: {progress.best_metric:.5g} (epoch {progress.best_epoch})")
    print(f"linzoo train: {folder}")
