"""``linzoo validate``: accuracy of one model or many on a data set, with the flags of timm's validate.py.

A recipe of ``configs/pointcloud``, or ``--detector NAME``, validates a LiDAR detector: see validate_lidar.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .validation.jobs import Job


def module_for(words: Sequence[str]) -> ModuleType:
    """Who takes a command line: this module, or ``validate_lidar`` where it is about a LiDAR detector."""
    from .train_lidar import is_meant

    if is_meant(words):
        from . import validate_lidar

        return validate_lidar
    return sys.modules[__name__]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from .validation.arguments import add_groups

    add_groups(parser)
    parser.epilog = "`linzoo validate --detector NAME --help` shows the flags of LiDAR detectors."


def run(args: argparse.Namespace) -> int:
    from .validation.arguments import check
    from .validation.jobs import jobs_of
    from .validation.results import Results

    check(args)
    if args.device == "auto":
        args.device = best_device()
    jobs = jobs_of(args)
    check_pictures(args)
    results = Results(args.results_file, args.results_format, args.topk)
    if args.resume:
        jobs = [job for job in jobs if not results.has(job.model, job.checkpoint)]
        print(f"linzoo validate: {len(jobs)} left to do", file=sys.stderr)
    failed, rows = [], []
    for job in jobs:
        try:
            rows.append(validate(job, args))
        except (ValueError, OSError, RuntimeError) as error:
            if len(jobs) == 1 or isinstance(error, OSError):  # the pictures' fault, or the disk's: all end
                raise
            failed.append(job.model)
            print(f"linzoo validate: {job.model}: {' '.join(str(error).split())}", file=sys.stderr)
            continue
        results.add(rows[-1])
        print(summary(rows[-1], args.topk), flush=True)
    if args.results_file is None:
        print(f"--result\n{json.dumps(rows[0] if len(rows) == 1 else rows, indent=4)}")
    if failed:
        print(f"linzoo validate: no result for {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def best_device() -> str:
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if accelerator is None else accelerator.type


def check_pictures(args: argparse.Namespace) -> None:
    """Faults of the data set are told before a model is built or weights are fetched."""
    from .predict import usable_device
    from .validation.pictures import make_dataset

    usable_device(args.device)
    make_dataset(args.in_chans or (args.input_size or [3])[0], args)


def validate(job: Job, args: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    import torch

    from .checkpoint_flags import training_checkpoint
    from .models import count_parameters
    from .validation import pictures
    from .validation.build import adopt, build, test_time_pool

    torch.manual_seed(0)  # random weights are the same every time
    content = training_checkpoint(job.checkpoint)
    args, taken = adopt(args, content)
    tell(job, args, taken)
    model = build(job, args, content)
    config = pictures.data_config(model, args)
    dataset = pictures.make_dataset(config["input_size"][0], args)
    labels = labels_of(job, args, dataset, model.num_classes)
    parameters = count_parameters(model)
    if args.test_pool:
        model, config = test_time_pool(model, config)
    measured = with_retries(partial(measured_at, model, dataset, config, args, job.model, labels), args)
    row: dict[str, Any] = {"model": job.model}
    for k in args.topk:
        accuracy = round(measured.accuracy(k), 4)
        row |= {f"top{k}": accuracy, f"top{k}_err": round(100 - accuracy, 4)}
    return row | {
        "param_count": round(parameters / 1e6, 2),
        "img_size": config["input_size"][-1],
        "crop_pct": config["crop_pct"],
        "interpolation": config["interpolation"],
        "checkpoint": str(job.checkpoint or ""),
        "loss": round(measured.loss / measured.pictures, 5),
        "samples_per_sec": round(measured.pictures / measured.seconds, 2),
    }


def tell(job: Job, args: argparse.Namespace, taken: dict[str, Any]) -> None:
    """On stderr: what is not as the flags say, or means nothing."""
    if args.random_weights:
        print(f"linzoo validate: {job.model} has random weights: its accuracy means nothing", file=sys.stderr)
    if taken:
        said = ", ".join(f"{name}={value}" for name, value in taken.items())
        print(f"linzoo validate: as trained, from {job.checkpoint}: {said}", file=sys.stderr)


def labels_of(job: Job, args: argparse.Namespace, dataset: Any, classes: int) -> dict[str, Any]:
    """``valid_labels`` and ``real`` for ``measure``.

    Raises: ValueError when they, or the data set's classes, do not fit the model.
    """
    from .validation.labels import read_valid_labels, real_labels
    from .validation.pictures import check_classes

    valid = read_valid_labels(args.valid_labels, classes) if args.valid_labels else None
    check_classes(dataset, len(valid or range(classes)), str(args.valid_labels) if valid else job.model)
    if not args.real_labels:
        return {"valid_labels": valid, "real": None}
    if valid or max(args.topk) > classes:
        raise ValueError(
            f"--real-labels needs all classes of the model, and --topk of at most {classes}, got "
            f"{max(args.topk)}" + (" and --valid-labels" if valid else "")
        )
    return {"valid_labels": None, "real": real_labels(dataset, args.real_labels, tuple(args.topk))}


def measured_at(model, dataset, config, args, name, labels, batch_size: int):
    """The measurement at one batch size."""
    import torch

    from .training.batches import DataError
    from .validation.measure import log_line, measure
    from .validation.pictures import make_loader

    device = torch.device(args.device)
    dtype = getattr(torch, args.model_dtype or "float32")
    layout = {"memory_format": torch.channels_last} if args.channels_last else {}
    model = model.to(device, dtype, **layout)
    forward = torch.compile(model, backend=args.torchcompile) if args.torchcompile else model
    half = args.amp_dtype or ("bfloat16" if device.type == "cpu" else "float16")
    autocast = partial(torch.autocast, device.type, getattr(torch, half)) if args.amp else nullcontext
    loader = make_loader(dataset, config, args, batch_size, device, dtype)
    try:
        return measure(
            forward, loader, device=device, dtype=dtype, channels_last=args.channels_last, autocast=autocast,
            topk=args.topk, **labels, log=log_line(name, args.log_freq, len(loader)),
        )  # fmt: skip
    except DataError as error:
        raise DataError.without_traceback(error) from error


def with_retries(measure_at, args: argparse.Namespace):
    """``--retry``: half the batch when memory runs out, until it is 1."""
    import torch

    batch_size = args.batch_size
    while True:
        try:
            return measure_at(batch_size)
        except torch.OutOfMemoryError:
            if not args.retry or batch_size == 1:
                raise
            batch_size //= 2
            torch.accelerator.empty_cache()
            print(f"linzoo validate: out of memory, now batches of {batch_size}", file=sys.stderr)


def summary(row: dict[str, Any], topk: list[int]) -> str:
    tops = "  ".join(f"Acc@{k} {row[f'top{k}']:.3f} ({row[f'top{k}_err']:.3f})" for k in topk)
    where = f" {row['checkpoint']}" if row["checkpoint"] else ""
    return f"{row['model']}{where}  * {tops}  loss {row['loss']:.4f}  {row['samples_per_sec']:.1f} img/s"


if __name__ == "__main__":
    from linzoo.cli import main

    sys.exit(main(["validate", *sys.argv[1:]]))
