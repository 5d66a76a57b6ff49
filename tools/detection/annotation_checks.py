"""What a COCO annotation file must hold for training or testing not to go wrong later, or silently."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path


def read_annotations(path: Path, setting: str) -> dict:
    """The content of a COCO file. ``setting``: the key of the config that named it, for the error.

    Raises: FileNotFoundError; ValueError for a file that is no JSON or lacks a list.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{setting} must be a file, {path} is not there")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{setting}: {path} is not JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{setting}: {path} must hold a list {key!r} (COCO format)")
    if not content["images"]:
        raise ValueError(f"{setting}: {path} must name pictures, its list of images is empty")
    return content


def check_records(content: dict, source: str) -> None:
    """Raises ValueError unless every image and annotation has what mmdetection reads of it."""
    images = _by_id(content["images"], ("id", "file_name", "width", "height"), "image", source)
    categories = _by_id(content["categories"], ("id", "name"), "category", source)
    objects = _by_id(
        content["annotations"], ("id", "image_id", "category_id", "bbox", "area"), "annotation", source
    )
    for number, record in objects.items():
        for key, known in (("image_id", images), ("category_id", categories)):
            if record[key] not in known:
                raise ValueError(
                    f"{source}: annotation {number} has {key} {record[key]!r}, which is not in the file"
                )
        box = record["bbox"]
        numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) for v in box)
        if not numbers or not all(math.isfinite(v) for v in box):
            raise ValueError(
                f"{source}: annotation {number}: bbox must be [x, y, width, height], got {box!r}"
            )


def _by_id(records: list, keys: Sequence[str], what: str, source: str) -> dict:
    found: dict = {}
    for place, record in enumerate(records):
        lacking = [key for key in keys if not isinstance(record, dict) or key not in record]
        if lacking:
            raise ValueError(f"{source}: {what} number {place} lacks {', '.join(lacking)}")
        if record["id"] in found:
            raise ValueError(f"{source}: {what} ids must be unique, {record['id']!r} is there twice")
        found[record["id"]] = record
    return found


def check_classes(content: dict, classes: Sequence[str], source: str) -> None:
    """Raises ValueError unless the dataset's classes are categories of the file, in the file's order.

    mmdetection drops a class that the file does not name, and numbers the others as the file does: both
    silently, and labels then mean other classes than they are called.
    """
    names = [category["name"] for category in content["categories"]]
    absent = [name for name in classes if name not in names]
    if absent:
        raise ValueError(
            f"{source}: metainfo names {len(classes)} classes, {len(absent)} of them are not among the "
            f"file's {len(names)} categories ({_some(absent)}); set metainfo.classes to {_some(names)}"
        )
    order = [name for name in names if name in classes]
    if order != list(classes):
        raise ValueError(
            f"{source}: metainfo.classes must stand in the order of the file's categories ({_some(order)}), "
            f"got {_some(classes)}"
        )


def check_objects(content: dict, classes: Sequence[str], source: str) -> None:
    """Raises ValueError when a file to train on has no object of any class."""
    wanted = {c["id"] for c in content["categories"] if c["name"] in classes}
    if not any(record["category_id"] in wanted for record in content["annotations"]):
        count = len(content["annotations"])
        raise ValueError(f"{source}: none of its {count} annotations is an object of a class to train on")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")
