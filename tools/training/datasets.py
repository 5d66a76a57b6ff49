"""Opening the data sets: timm's readers (folder, tar, torch/, hfds/, hfids/, tfds/, wds/) and our digits."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data import create_dataset
from timm.data.dataset import ImageDataset, IterableImageDataset
from torch.utils.data import Dataset

from .batches import DataError
from .digits import DigitsDataset

FOLDERS = ("", "folder", "tar")
SOURCES = ("torch/", "hfds/", "hfids/", "tfds/", "wds/")


@dataclass(frozen=True, slots=True)
class Datasets:
    """Args:
    evaluation: None without validation.
    num_classes: what the data set says; None where it does not say.
    """

    train: Dataset
    evaluation: Dataset | None
    num_classes: int | None

    @property
    def streamed(self) -> bool:
        return isinstance(self.train, IterableImageDataset)


class Pictures(ImageDataset):
    """timm's data set, but a picture that cannot be read is an error that names it (timm takes the next)."""

    def __getitem__(self, index: int) -> tuple:
        try:
            file, target, *_ = self.reader[index]
            with file:
                picture = Image.open(file).convert(self.input_img_mode)  # this decodes
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            reason = error.strerror if isinstance(error, FileNotFoundError) else error
            raise DataError(f"cannot read {self.filename(index, absolute=True)}: {reason}") from error
        if self.transform is not None:
            picture = self.transform(picture)
        return picture, -1 if target is None else target


def open_datasets(args: argparse.Namespace) -> Datasets:
    """The training and the validation part, without transforms.

    Raises: ValueError, FileNotFoundError, ImportError when there is no such data or its parts do not fit.
    """
    mode = args.input_img_mode or ("L" if channels(args) == 1 else "RGB")
    if args.dataset == "digits":
        evaluation = DigitsDataset(False, mode) if args.val_split else None
        return Datasets(DigitsDataset(True, mode), evaluation, 10)
    check_source(args)
    train = open_part(args, args.train_split, mode, training=True)
    evaluation = open_part(args, args.val_split, mode, training=False) if args.val_split else None
    classes = class_numbers(train)
    if evaluation is not None and args.dataset in FOLDERS:
        check_parts_differ(args, train, evaluation)
        evaluation = with_classes_of_training(args, evaluation, classes, mode)
    return Datasets(train, evaluation, None if classes is None else max(classes.values()) + 1)


def channels(args: argparse.Namespace) -> int:
    return args.in_chans or (args.input_size[0] if args.input_size else 3)


def check_source(args: argparse.Namespace) -> None:
    if args.dataset not in FOLDERS and not args.dataset.lower().startswith(SOURCES):
        raise ValueError(
            f"--dataset must be 'digits', empty (a folder or tar file at --data-dir) or begin with "
            f"{', '.join(SOURCES)}; got {args.dataset!r}"
        )
    if args.dataset not in FOLDERS:
        return
    if not args.data_dir:
        raise ValueError(
            "--data-dir must be a folder or tar file of pictures, got none (or --dataset digits)"
        )
    if not os.path.exists(args.data_dir):
        raise FileNotFoundError(f"--data-dir must be a folder or tar file, {args.data_dir} is not there")
    places = (Path(args.class_map), Path(args.data_dir) / args.class_map)
    if args.class_map and not any(place.is_file() for place in places):
        raise FileNotFoundError(f"--class-map must be a file, {args.class_map} is not there")


def open_part(
    args: argparse.Namespace, split: str, mode: str, training: bool, class_map: dict[str, int] | None = None
) -> Dataset:
    try:
        dataset = create_dataset(
            "" if args.dataset in FOLDERS else args.dataset,
            root=args.data_dir,
            split=split,
            class_map=class_map or args.class_map,
            is_training=training,
            download=args.dataset_download,
            batch_size=args.batch_size,
            num_samples=args.train_num_samples if training else args.val_num_samples,
            seed=args.seed,
            repeats=0,
            input_img_mode=mode,
            input_key=args.input_key,
            target_key=args.target_key,
        )
    except ModuleNotFoundError as error:  # timm needs no reader's library to be installed
        raise ImportError(f"--dataset {args.dataset}: {error.name} is not installed") from error
    except (AssertionError, RuntimeError) as error:  # timm's words: no pictures, unknown name, ...
        raise ValueError(f"--dataset {args.dataset!r} at {args.data_dir}, {split}: {error}") from error
    if type(dataset) is ImageDataset:
        return Pictures(None, reader=dataset.reader, input_img_mode=mode)
    return dataset


def class_numbers(dataset: Dataset) -> dict[Any, int] | None:
    """Class name to number, None for a data set that does not say."""
    for holder in (dataset, getattr(dataset, "reader", None)):
        for name in ("class_to_idx", "class_name_to_idx"):
            numbers = getattr(holder, name, None)
            if numbers:
                return dict(numbers)
    return None


def check_parts_differ(args: argparse.Namespace, train: Pictures, evaluation: Pictures) -> None:
    """timm takes the whole folder where it has none for a split: the parts would share their pictures."""
    first, second = (Path(getattr(part.reader, "root", args.data_dir)) for part in (train, evaluation))
    if first.is_relative_to(second) or second.is_relative_to(first):
        root = Path(args.data_dir)
        have = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
        raise ValueError(
            f"--val-split must be another part of {root} than --train-split {args.train_split!r}, got "
            f"{args.val_split!r}; folders there: {', '.join(have[:8]) or 'none'}. "
            "--val-split '' trains without validation"
        )


def with_classes_of_training(
    args: argparse.Namespace, evaluation: Pictures, classes: dict | None, mode: str
) -> Dataset:
    """The validation part with the training part's class numbers, which timm gives each part by itself."""
    own = class_numbers(evaluation)
    if classes is None or own is None or own == classes:
        return evaluation
    unknown = sorted(set(own) - set(classes))
    if unknown:
        raise ValueError(
            f"--val-split must have the classes of --train-split, {args.val_split!r} has {len(unknown)} "
            f"others: {', '.join(map(str, unknown[:5]))}"
        )
    return open_part(args, args.val_split, mode, training=False, class_map=classes)
