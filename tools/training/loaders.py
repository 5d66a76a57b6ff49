"""From data sets to batches on the device: timm's transforms, collation with mixup, and prefetcher."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from timm.data import (
    AugMixDataset,
    FastCollateMixup,
    Mixup,
    create_loader,
    create_transform,
    resolve_data_config,
)
from timm.data.loader import PrefetchLoader, fast_collate
from torch import Tensor, nn
from torch.utils.data import default_collate

from .batches import EvalPlan, SeededBatches, TrainPlan, make_loader
from .datasets import Datasets, channels
from .seeding import Use, apart
from .transforms import mend, train_transform
from .world import World


class SeededErasing:
    """Random erasing on the device, drawn from (seed, epoch, step, rank); the caller's state stays."""

    def __init__(self, erase: Callable[[Tensor], Tensor], seed: int, rank: int, device: torch.device) -> None:
        self.erase, self.seed, self.rank, self.device = erase, seed, rank, device
        self.epoch = self.step = 0

    def __call__(self, batch: Tensor) -> Tensor:
        with apart(self.seed, Use.ERASE, self.epoch, self.step, self.rank, device=self.device):
            self.step += 1
            return self.erase(batch)


@dataclass(slots=True)
class Loaders:
    """Args:
    train, evaluation: iterables of (pictures, classes).
    steps: training batches an epoch.
    mixup: mixes on the device; None where mixing is off or done in collation.
    config: timm's data configuration (input_size, mean, std, interpolation, crop_pct, crop_mode).
    """

    train: Iterable[Any]
    evaluation: Iterable[Any] | None
    steps: int
    plan: TrainPlan | None
    mixup: Mixup | None
    config: dict
    mixup_off_epoch: int = 0  # of a stream; a plan has its own

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """The next pass over ``train`` is ``epoch`` from step ``start`` on; a stream has only beginnings."""
        if self.plan is None:
            self.train.dataset.set_epoch(epoch)
            if self.mixup_off_epoch and epoch >= self.mixup_off_epoch:
                self.train.mixup_enabled = False
            return
        self.plan.set_epoch(epoch, start)
        erasing = getattr(self.train, "random_erasing", None)
        if erasing is not None:
            erasing.epoch, erasing.step = epoch, start


def data_config(args: argparse.Namespace, model: nn.Module) -> dict:
    """timm's data configuration of model and flags, with the input's real number of channels."""
    config = resolve_data_config(vars(args), model=model)
    config["input_size"] = (channels(args), *config["input_size"][1:])
    for name in ("mean", "std"):
        if len(config[name]) != channels(args):
            config[name] = (sum(config[name]) / len(config[name]),) * channels(args)
    return config


def mixing(args: argparse.Namespace) -> bool:
    return args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None


def make_mixup(args: argparse.Namespace, num_classes: int) -> Mixup | None:
    if not mixing(args):
        return None
    kind = Mixup if args.no_prefetcher else FastCollateMixup
    return kind(
        mixup_alpha=args.mixup,
        cutmix_alpha=args.cutmix,
        cutmix_minmax=args.cutmix_minmax,
        prob=args.mixup_prob,
        switch_prob=args.mixup_switch_prob,
        mode=args.mixup_mode,
        label_smoothing=args.smoothing,
        num_classes=num_classes,
    )


def train_transform_words(args: argparse.Namespace, config: dict) -> dict:
    """create_transform's and create_loader's words for training."""
    fixed = args.no_aug or not args.train_interpolation
    return {
        "no_aug": args.no_aug,
        "train_crop_mode": args.train_crop_mode,
        "scale": args.scale,
        "ratio": args.ratio,
        "hflip": args.hflip,
        "vflip": args.vflip,
        "color_jitter": args.color_jitter,
        "color_jitter_prob": args.color_jitter_prob,
        "grayscale_prob": args.grayscale_prob,
        "gaussian_blur_prob": args.gaussian_blur_prob,
        "auto_augment": args.aa,
        "interpolation": config["interpolation"] if fixed else args.train_interpolation,
        "mean": config["mean"],
        "std": config["std"],
        "re_prob": args.reprob,
        "re_mode": args.remode,
        "re_count": args.recount,
    }


def eval_transform_words(config: dict) -> dict:
    names = ("interpolation", "mean", "std", "crop_pct", "crop_mode")
    return {name: config[name] for name in names}


def erasing_splits(args: argparse.Namespace) -> int:
    """In how many parts a batch is for erasing, whose first stays whole; 0: all of it is erased."""
    return (args.aug_splits or 2) if args.resplit else 0


def prefetched(
    loader: Any, args: argparse.Namespace, config: dict, device: torch.device, erasing: bool
) -> Any:
    """``loader`` behind timm's prefetcher, which normalises (and erases) on the device."""
    if args.no_prefetcher:
        return loader
    return PrefetchLoader(
        loader,
        mean=config["mean"],
        std=config["std"],
        channels=config["input_size"][0],
        device=device,
        img_dtype=input_dtype(args),
        re_prob=args.reprob if erasing and not args.no_aug else 0.0,
        re_mode=args.remode,
        re_count=args.recount,
        re_num_splits=erasing_splits(args),
    )


def input_dtype(args: argparse.Namespace) -> torch.dtype:
    return getattr(torch, args.model_dtype) if args.model_dtype else torch.float32


def make_loaders(
    args: argparse.Namespace, datasets: Datasets, config: dict, num_classes: int, world: World
) -> Loaders:
    """The loaders of this process.

    Raises: ValueError when the batch is larger than the data set.
    """
    mixup = make_mixup(args, num_classes)
    if datasets.streamed:
        return streamed_loaders(args, datasets, config, mixup, world)
    fast = not args.no_prefetcher
    words = train_transform_words(args, config)
    dataset = AugMixDataset(datasets.train, args.aug_splits) if args.aug_splits > 1 else datasets.train
    dataset.transform = train_transform(
        config["input_size"],
        use_prefetcher=fast,
        separate=args.aug_splits > 0,
        re_num_splits=erasing_splits(args),
        **words,
    )
    plain = fast_collate if fast else default_collate
    in_collation = fast and mixup is not None
    plan = TrainPlan(
        len(dataset),
        args.batch_size,
        args.seed,
        world.rank,
        world.size,
        args.aug_repeats,
        args.mixup_off_epoch,
    )
    batches = SeededBatches(dataset, mixup if in_collation else plain, args.seed, num_classes)
    train = prefetched(
        make_loader(batches, plan, args.workers, args.pin_mem), args, config, world.device, True
    )
    if getattr(train, "random_erasing", None) is not None:
        train.random_erasing = SeededErasing(train.random_erasing, args.seed, world.rank, world.device)
    evaluation = None
    if datasets.evaluation is not None:
        evaluation = eval_loader(args, datasets.evaluation, config, num_classes, world)
    return Loaders(train, evaluation, len(plan), plan, None if in_collation else mixup, config)


def eval_loader(args: argparse.Namespace, dataset: Any, config: dict, num_classes: int, world: World) -> Any:
    fast = not args.no_prefetcher
    dataset.transform = create_transform(
        config["input_size"], is_training=False, use_prefetcher=fast, **eval_transform_words(config)
    )
    size = args.validation_batch_size or args.batch_size
    batches = SeededBatches(dataset, fast_collate if fast else default_collate, args.seed, num_classes)
    plan = EvalPlan(len(dataset), size, world.rank, world.size)
    return prefetched(
        make_loader(batches, plan, args.workers, args.pin_mem), args, config, world.device, False
    )


def streamed_loaders(
    args: argparse.Namespace, datasets: Datasets, config: dict, mixup: Mixup | None, world: World
) -> Loaders:
    """timm's own loaders: the order is the reader's, seeded by (seed, epoch) as far as the reader does so."""
    fast = not args.no_prefetcher
    shared = {
        "input_size": config["input_size"],
        "num_workers": args.workers,
        "distributed": world.size > 1,
        "pin_memory": args.pin_mem,
        "img_dtype": input_dtype(args),
        "device": world.device,
        "use_prefetcher": fast,
    }
    train = create_loader(
        datasets.train,
        batch_size=args.batch_size,
        is_training=True,
        re_split=args.resplit,
        collate_fn=mixup if fast else None,
        persistent_workers=not args.mixup_off_epoch,  # they would go on mixing
        **shared,
        **train_transform_words(args, config),
    )
    mend(datasets.train.transform)
    evaluation = None
    if datasets.evaluation is not None:
        size = args.validation_batch_size or args.batch_size
        evaluation = create_loader(
            datasets.evaluation, batch_size=size, is_training=False, **shared, **eval_transform_words(config)
        )
    return Loaders(train, evaluation, len(train), None, None if fast else mixup, config, args.mixup_off_epoch)
