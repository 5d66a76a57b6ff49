"""The data that a config names, looked at before anything is written or trained."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .annotation_checks import check_classes, check_objects, check_records, read_annotations

if TYPE_CHECKING:
    from mmengine.config import Config

OPENED = 200  # pictures whose header is read; of all others only that they are there and not empty


def check_data(cfg: Config, loaders: Sequence[str]) -> None:
    """Looks at the COCO data sets of ``loaders`` ("train_dataloader", ...) and the classes of the model.

    Data sets of other formats, and of storage other than files, are left to mmdetection.
    Raises: FileNotFoundError, ValueError: the first fault, with the setting of the config that it is about.
    """
    for loader in loaders:
        if cfg.get(loader) is None:
            raise ValueError(f"the config has no {loader}")
        for setting, dataset in datasets(cfg[loader]["dataset"], f"{loader}.dataset"):
            check_dataset(dataset, setting, training=loader == "train_dataloader")
            check_class_counts(cfg.model, classes_of(dataset, setting), setting)
    for part in ("val", "test"):
        if f"{part}_dataloader" in loaders:
            check_evaluator(cfg, part)


def datasets(dataset: Mapping, setting: str) -> Iterator[tuple[str, Mapping]]:
    """The data sets within wrappers such as RepeatDataset, and the settings that they stand under."""
    if "dataset" in dataset:
        yield from datasets(dataset["dataset"], f"{setting}.dataset")
    elif "datasets" in dataset:
        for i, inner in enumerate(dataset["datasets"]):
            yield from datasets(inner, f"{setting}.datasets[{i}]")
    else:
        yield setting, dataset


def classes_of(dataset: Mapping, setting: str) -> tuple[str, ...]:
    """Names of the classes: the config's ``metainfo``, else those of the data set's type."""
    from mmdet.registry import DATASETS

    kind = dataset.get("type")
    found = DATASETS.get(kind) if isinstance(kind, str) else kind
    if found is None:
        raise ValueError(f"{setting}.type must be a data set known to mmdetection, got {kind!r}")
    classes = (dataset.get("metainfo") or {}).get("classes") or getattr(found, "METAINFO", {}).get("classes")
    if isinstance(classes, str):
        classes = Path(classes).read_text(encoding="utf-8").split("\n")
    return tuple(classes or ())


def is_coco(dataset: Mapping) -> bool:
    from mmdet.datasets import CocoDataset
    from mmdet.registry import DATASETS

    kind = dataset.get("type")
    found = DATASETS.get(kind) if isinstance(kind, str) else kind
    elsewhere = "://" in f"{dataset.get('ann_file', '')}{dataset.get('data_root', '')}"
    return isinstance(found, type) and issubclass(found, CocoDataset) and not elsewhere


def check_dataset(dataset: Mapping, setting: str, training: bool) -> None:
    """Annotations, classes and pictures of one data set."""
    classes = classes_of(dataset, setting)
    if not is_coco(dataset):
        return
    root = Path(dataset.get("data_root") or "")
    annotations = root / dataset.get("ann_file", "")
    content = read_annotations(annotations, f"{setting}.ann_file")
    source = f"{setting}.ann_file: {annotations}"
    check_records(content, source)
    check_classes(content, classes, source)
    if training:
        check_objects(content, classes, source)
    prefix = (dataset.get("data_prefix") or {}).get("img", "")
    check_pictures(root / prefix, [image["file_name"] for image in content["images"]], setting)


def check_pictures(folder: Path, names: Sequence[str], setting: str) -> None:
    """Raises OSError, ValueError for pictures that are missing, empty or, of ``OPENED``, unreadable."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{setting}.data_prefix.img must be a folder, {folder} is not there")
    sizes = {name: _size(folder / name) for name in names}
    missing = [name for name, size in sizes.items() if size is None]
    if missing:
        raise FileNotFoundError(
            f"{setting}: {len(missing)} of {len(names)} pictures are not in {folder} (first: {missing[0]})"
        )
    empty = [name for name, size in sizes.items() if size == 0]
    if empty:
        raise ValueError(
            f"{setting}: {len(empty)} of {len(names)} pictures in {folder} are empty (first: {empty[0]})"
        )
    for name in names[:: max(1, len(names) // OPENED)]:
        check_picture(folder / name)


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def check_picture(path: Path) -> None:
    """Raises ValueError for a file whose header is not a picture's."""
    from PIL import Image, UnidentifiedImageError

    try:
        Image.open(path).close()
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not a picture that Pillow can read") from error


def check_class_counts(model: Mapping, classes: Sequence[str], setting: str) -> None:
    """Raises ValueError when a head predicts another number of classes than the data set has."""
    for place, count in head_counts(model, "model"):
        if classes and count != len(classes):
            shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
            raise ValueError(
                f"{place}.num_classes must be {len(classes)}, the number of classes of {setting} ({shown}), "
                f"got {count}"
            )


def head_counts(part: object, place: str) -> Iterator[tuple[str, int]]:
    """Where a ``bbox_head`` or ``mask_head`` states ``num_classes``, and what."""
    items = enumerate(part) if isinstance(part, (list, tuple)) else part.items()
    for key, value in items:
        if not isinstance(value, (list, tuple, Mapping)):
            continue
        inner = f"{place}[{key}]" if isinstance(key, int) else f"{place}.{key}"
        is_head = "bbox_head" in inner or "mask_head" in inner
        if is_head and isinstance(value, Mapping) and isinstance(value.get("num_classes"), int):
            yield inner, value["num_classes"]
        yield from head_counts(value, inner)


def check_evaluator(cfg: Config, part: str) -> None:
    """Raises FileNotFoundError when the COCO metric's own annotation file is not there."""
    evaluator = cfg.get(f"{part}_evaluator")
    for metric in evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]:
        path = (metric or {}).get("ann_file")
        if path and "://" not in path and not Path(path).is_file():
            raise FileNotFoundError(f"{part}_evaluator.ann_file must be a file, {path} is not there")
