"""The pictures to validate on: the data sets of training, timm's loader, checked before the first batch."""

import argparse
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from ..training.datasets import check_source, class_numbers, open_part
from ..training.digits import DigitsDataset


def channels_of(model: nn.Module) -> int:
    """Input channels of the first convolution; the configuration's where there is no such layer."""
    name = model.pretrained_cfg.get("first_conv")
    try:
        return model.get_submodule(name).in_channels
    except (AttributeError, TypeError):
        return model.pretrained_cfg["input_size"][0]


def data_config(model: nn.Module, args: argparse.Namespace) -> dict:
    """Size, crop, interpolation, mean and deviation: the model's own, changed by the flags.

    Raises: ValueError for a size, mean or deviation that does not fit the model's channels.
    """
    from timm.data import resolve_data_config

    channels = channels_of(model)
    for flag, given in (("in-chans", args.in_chans), ("input-size", (args.input_size or [None])[0])):
        if given not in (None, channels):
            raise ValueError(f"--{flag} must have the model's {channels} channels, got {given}")
    for flag in ("mean", "std"):
        given = getattr(args, flag)
        if given and len(given) not in (1, channels):
            raise ValueError(f"--{flag} must have 1 or {channels} values, got {given}")
    given = {**vars(args), "in_chans": channels}
    config = resolve_data_config(given, model=model, use_test_size=not args.use_train_size)
    config["input_size"] = (channels, *config["input_size"][1:])
    for flag in ("mean", "std"):
        if len(config[flag]) != channels:  # the published model's, of three channels
            config[flag] = (sum(config[flag]) / len(config[flag]),) * channels
    return config


def make_dataset(channels: int, args: argparse.Namespace) -> Dataset:
    """The split that the flags name.

    Raises: FileNotFoundError for a folder or class map that is not there; ValueError where the flags name
        no data set, or one without pictures.
    """
    mode = args.input_img_mode or ("L" if channels == 1 else "RGB")
    if args.dataset == "digits":
        if args.split not in ("train", "training", "val", "validation", "test"):
            raise ValueError(f"--split of the digits must be train or validation, got {args.split!r}")
        return DigitsDataset(args.split in ("train", "training"), mode)
    given = argparse.Namespace(**{**vars(args), "data_dir": args.data or args.data_dir})
    given.val_num_samples, given.seed = args.num_samples, 0
    check_source(given)
    return open_part(given, args.split, mode, training=False)


def check_classes(dataset: Dataset, classes: int, whose: str) -> None:
    """The data set's classes are as many as ``classes``, those of ``whose``.

    A data set that does not say its classes, such as a stream, is checked batch by batch.
    Raises: ValueError.
    """
    known = class_numbers(dataset)
    if known is not None and (len(known) != classes or max(known.values()) >= classes):
        first = ", ".join(map(str, list(known)[:3]))
        raise ValueError(
            f"the data set must have the {classes} classes of {whose}, it has {len(known)} ({first}, ...): "
            "--class-map gives each folder its number, --valid-labels says which logits count"
        )


def make_loader(
    dataset: Dataset, config: dict, args: argparse.Namespace, batch_size: int, device: Any, dtype: Any
) -> Any:
    """timm's loader, in the data set's order; pictures of ``dtype`` on ``device``."""
    from timm.data import create_loader

    keys = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    return create_loader(
        dataset,
        **{key: config[key] for key in keys},
        crop_border_pixels=args.crop_border_pixels,
        batch_size=batch_size,
        use_prefetcher=not args.no_prefetcher,
        num_workers=args.workers,
        pin_memory=args.pin_mem,
        device=device,
        img_dtype=dtype,
        persistent_workers=False,
    )
