"""One training of a LiDAR detector from its arguments to its end."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...pointcloud import Detector
from ..runs.accelerator import agree, session
from ..runs.ending import finish
from ..runs.folder import choose_folder, claim
from ..runs.log import Log
from ..runs.plan import Plan
from ..training.seeding import Use, seed_all
from . import checkpoint
from .batches import TrainingFrames
from .build import build_detector
from .checks import check_arguments
from .datasets import ClassBalanced, augment_options, check_fits, open_frames, open_paste
from .joined_norm import join_batch_norms
from .loop import train
from .optim import make_optimizer, make_schedule


@dataclass(slots=True)
class Run:
    """Everything a training is made of.

    Args:
        model, net: the detector, and what is called: its losses, wrapped where there are several processes.
        frames, validation: what is trained on, and what the detector is judged by (None: never).
        updates: of the whole schedule.
        history: what was logged, a row each time.
        metrics: of the last validation.
    """

    args: argparse.Namespace
    accelerator: Any
    primary: bool
    device: torch.device
    folder: Path
    log: Log
    model: Detector
    frames: TrainingFrames
    validation: Any
    plan: Plan
    updates: int
    net: Any = None
    optimizer: Any = None
    schedule: Any = None
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """The update to stop after."""
        return min(self.updates, self.args.max_steps or self.updates)


class Losses(nn.Module):
    """A detector whose forward is its losses, so that DistributedDataParallel sees one call."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, points: list, labels: list) -> dict[str, torch.Tensor]:
        return self.detector.loss(points, labels)


def train_detector(args: argparse.Namespace) -> Run:
    """Run a training to its end; see ``tools.train_lidar.parse`` for the arguments.

    Raises: ValueError, OSError, ImportError for what cannot be done or has gone wrong on the way; Diverged
        when the loss or a weight became NaN or infinite.
    """
    check_arguments(args)
    with session(args, "pointcloud") as (accelerator, log):
        run = prepare(args, accelerator, log)
        finish(run, train)
    return run


def prepare(args: argparse.Namespace, accelerator: Any, log: Log) -> Run:
    """Everything built and the checkpoint read; the folder is made last."""
    folder, path = agree(accelerator, choose_folder(args, args.detector))
    state = None if path is None else checkpoint.read(path)
    seed_all((args.seed, Use.MODEL), accelerator.device)
    weights = args.initial_checkpoint if state is None else None
    model = build_detector(args.detector, args.backbone_kwargs, weights, flag="--initial-checkpoint")
    seed_all((args.seed, Use.MODEL, accelerator.process_index), accelerator.device)  # for drop path
    training = open_frames(args, train=True)
    judged = args.val_interval or not args.no_validation
    validation = open_frames(args, train=False) if judged else None
    for frames in (training, validation):
        if frames is not None:
            check_fits(args, model.config, frames)
    paste = open_paste(args, training)
    if args.class_balanced:
        training = ClassBalanced(training, args.seed)
    plan = Plan(len(training), args.batch_size * args.grad_accum_steps * accelerator.num_processes, args.seed)
    if state is not None:
        checkpoint.check_same_run(state, path, args, plan.items, model)
    frames = TrainingFrames(
        frames=training,
        options=augment_options(args),
        paste=paste,
        seed=args.seed,
        last_paste=args.epochs - args.no_paste_epochs,
        last_augmented=args.epochs - args.no_aug_epochs,
    )
    run = Run(
        args=args,
        accelerator=accelerator,
        primary=accelerator.is_main_process,
        device=accelerator.device,
        folder=folder,
        log=log,
        model=model.to(accelerator.device),
        frames=frames,
        validation=validation,
        plan=plan,
        updates=args.epochs * plan.updates,
    )
    if args.sync_bn and accelerator.num_processes > 1:
        join_batch_norms(run.model)
    run.optimizer = make_optimizer(args, run.model.parameters())
    run.schedule = make_schedule(args, run.optimizer, run.updates)
    run.net, run.optimizer = accelerator.prepare(Losses(run.model), run.optimizer)
    if run.primary:
        claim(folder, args)
    if state is not None:
        checkpoint.restore(run, path, state)
    announce(run)
    return run


def announce(run: Run) -> None:
    count = sum(p.numel() for p in run.model.parameters())
    where = f"{run.accelerator.num_processes} process(es) on {run.device.type}"
    run.log.say(
        f"{run.args.detector}: {count:,} parameters; {where}, {run.plan.items} frames an update, "
        f"{len(run.frames)} frames, {run.last} of {run.updates} updates"
    )
