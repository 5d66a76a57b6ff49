"""One distillation from its arguments to its end."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ...diffusion import LinearizedHandle
from ...diffusion.distill import (
    Denoiser,
    Objective,
    denoiser_of,
    objective_of,
    train_only,
    trained_names,
)
from ..runs.accelerator import agree, session
from ..runs.ending import finish
from ..runs.folder import choose_folder, claim
from ..runs.log import Log
from ..runs.plan import Plan
from ..training.seeding import Use, seed_all
from . import checkpoint
from .batches import BatchMaker
from .checks import check_arguments
from .loop import train
from .optim import make_ema, make_optimizer, make_schedule
from .sources import check_fits, open_samples
from .student import Student, make_student
from .teacher import HALF, Teacher, load_teacher


@dataclass(slots=True)
class Run:
    """Everything a distillation is made of.

    Args:
        student, net: the model, and what is called: the model, wrapped where there are several processes.
        trained: the parameters that train, by name.
        vae: decodes samples; None where latents are pixels.
        history: what was logged, a row each time.
    """

    args: argparse.Namespace
    accelerator: Any
    primary: bool
    device: torch.device
    folder: Path
    log: Log
    teacher: nn.Module | None
    scheduler: Any
    student: nn.Module
    handle: LinearizedHandle | None
    trained: dict[str, Tensor]
    objective: Objective
    denoiser: Denoiser
    samples: Any
    batches: BatchMaker
    plan: Plan
    vae: nn.Module | None
    net: Any = None
    optimizer: Any = None
    schedule: Any = None
    ema: ModelEmaV3 | None = None
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def average(self) -> nn.Module | None:
        return None if self.ema is None else self.ema.module

    @property
    def best(self) -> nn.Module:
        """What is saved and judged: the moving average if there is one, else the student."""
        return self.student if self.ema is None else self.ema.module


def distill(args: argparse.Namespace) -> Run:
    """Run a distillation to its end; see ``tools.distill.parse`` for the arguments.

    Raises: ValueError, OSError, ImportError for what cannot be done or has gone wrong on the way; Diverged
        when the loss or a weight became NaN or infinite.
    """
    check_arguments(args)
    with session(args, "diffusion") as (accelerator, log):
        run = prepare(args, accelerator, log)
        finish(run, train)
        unwrap(run)
    return run


def unwrap(run: Run) -> None:
    """The student as it was before accelerate gave it a ``forward`` of its own, for mixed precision."""
    run.net = run.student
    for name in ("forward", "_original_forward"):
        run.student.__dict__.pop(name, None)


def prepare(args: argparse.Namespace, accelerator: Any, log: Log) -> Run:
    """Everything built and the checkpoint read; the folder is made last."""
    folder, path = agree(accelerator, choose_folder(args, args.method))
    state = None if path is None else checkpoint.read(path)
    objective = objective_of(args.objective or args.method)
    args.objective, args.train = objective.name, args.train or objective.trains
    seed_all((args.seed, Use.MODEL), accelerator.device)
    share = args.train == "swapped" and not args.from_scratch
    teacher = load_teacher(args, half=share)
    denoiser = denoiser_of(teacher.model, args.guidance)
    if objective.name not in denoiser.objectives:
        fits, name = " or ".join(denoiser.objectives), type(teacher.model).__name__
        raise ValueError(f"--objective must be {fits} for a {name}, got {objective.name}")
    teacher.model.requires_grad_(False)
    student = make_student(args, teacher.model, share)
    made = make_objective(args, denoiser, teacher, student)
    samples = open_samples(args, teacher, denoiser, accelerator, log)
    check_fits(args, samples, denoiser)
    plan = Plan(len(samples), args.batch_size * args.grad_accum_steps * accelerator.num_processes, args.seed)
    if state is not None:
        checkpoint.check_same_run(state, path, args, plan.items)
    run = assemble(args, accelerator, log, folder, teacher, student, made, samples, plan)
    add_optimizer(run)
    if run.primary:
        claim(folder, args)
    if state is not None:
        checkpoint.restore(run, path, state)
    announce(run)
    return run


def assemble(
    args: argparse.Namespace,
    accelerator: Any,
    log: Log,
    folder: Path,
    teacher: Teacher,
    student: Student,
    objective: Objective,
    samples: Any,
    plan: Plan,
) -> Run:
    """Student beside teacher, on the device."""
    train_only(student.model, trained_names(student.model, args.train))
    place(args, accelerator.device, teacher.model, student.model)
    trained = {name: p for name, p in student.model.named_parameters() if p.requires_grad}
    run = Run(
        args=args,
        accelerator=accelerator,
        primary=accelerator.is_main_process,
        device=accelerator.device,
        folder=folder,
        log=log,
        teacher=None if args.from_scratch else teacher.model,
        scheduler=teacher.scheduler,
        student=student.model,
        handle=student.handle,
        trained=trained,
        objective=objective,
        denoiser=objective.denoiser,
        samples=samples,
        batches=BatchMaker(args, samples, objective.denoiser, accelerator.device),
        plan=plan,
        vae=getattr(teacher.pipe, "vae", None),
    )
    teacher.pipe = None  # its text encoders are not needed any more
    return run


def add_optimizer(run: Run) -> None:
    """Average, optimizer, schedule; the student as accelerate wraps it."""
    args = run.args
    if args.grad_checkpointing:
        run.student.enable_gradient_checkpointing()
    run.ema = make_ema(args, run.student)
    optimizer = make_optimizer(args, run.trained.values())
    run.schedule = make_schedule(args, optimizer)
    run.net, run.optimizer = run.accelerator.prepare(run.student, optimizer)


def make_objective(
    args: argparse.Namespace, denoiser: Denoiser, teacher: Teacher, student: Student
) -> Objective:
    """Raises: ValueError for a weight of no term, and where there is no layer to compare."""
    names = () if student.handle is None else tuple(student.handle.modules)
    weights = {term: getattr(args, f"{term}_weight") for term in ("output", "feature", "variance")}
    try:
        objective = objective_of(args.objective)(denoiser, teacher.scheduler, names, weights)
        if objective.weights.get("feature"):
            objective.taps(student.model)
    except ValueError as error:
        raise ValueError(f"--objective {args.objective}: {error}") from error
    return objective


def place(args: argparse.Namespace, device: torch.device, teacher: nn.Module, student: nn.Module) -> None:
    """Onto the device; what trains is float32, what is frozen has the type of --mixed-precision."""
    if not args.from_scratch:
        nn.Module.to(teacher, device, HALF.get(args.mixed_precision))  # diffusers' own warns of the type
    student.to(device)
    for parameter in student.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def announce(run: Run) -> None:
    args, plan = run.args, run.plan
    count = sum(p.numel() for p in run.trained.values())
    where = f"{run.accelerator.num_processes} process(es) on {run.device.type}"
    run.log.say(
        f"{type(run.student).__name__}, {args.method}: {len(run.trained)} tensors, {count:,} parameters "
        f"train; objective {args.objective}; {where}, {plan.items} pictures an update, "
        f"{len(run.samples)} pictures, {args.max_steps} updates"
    )
