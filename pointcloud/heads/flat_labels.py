"""The labels of a batch in one row of boxes, and the checks that they need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..records import Labels

MAX_BOXES = 500  # of a sample; more are not looked at


class FlatLabels(NamedTuple):
    """Boxes of all samples: sample (K,) int64, boxes (K, 7 or 9), classes (K,) int64."""

    sample: Tensor
    boxes: Tensor
    classes: Tensor


def flatten_labels(
    labels: Sequence[Labels], like: Tensor, *, batch_size: int, classes: int, velocity: bool
) -> FlatLabels:
    """The first 500 boxes of each sample, less those without an extent, on ``like``'s device and dtype.

    Columns after the seventh are dropped unless velocity is asked for.
    Raises: ValueError when a sample has no labels of its own, when a row is too short or not finite (a
    velocity may be NaN: unknown), or a class is not in 0 .. classes - 1.
    """
    if len(labels) != batch_size:
        raise ValueError(f"labels must have an entry for each of the {batch_size} samples, got {len(labels)}")
    columns = 9 if velocity else 7
    rows = []
    for index, one in enumerate(labels):
        check_labels(index, one, columns, classes)
        boxes = one.boxes[:MAX_BOXES, :columns].to(like)
        kinds = one.classes[:MAX_BOXES].to(like.device)
        solid = (boxes[:, 3:6] > 0).all(dim=1)
        sample = torch.full_like(kinds, index)
        rows.append((sample[solid], boxes[solid], kinds[solid]))
    return FlatLabels(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


def check_form(index: int, labels: Labels, columns: int) -> None:
    """What can be told without looking at values, which may lie on a GPU.

    Raises: TypeError for what is no ``Labels`` of tensors; ValueError for rows that are too short, or boxes
        and classes of another number.
    """
    name = f"labels[{index}]"
    if not isinstance(labels, Labels):
        raise TypeError(f"{name} must be Labels(boxes, classes), got {type(labels).__name__}")
    boxes, kinds = labels
    for part, value in (("boxes", boxes), ("classes", kinds)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}.{part} must be a tensor, got {type(value).__name__}")
    if boxes.ndim != 2 or boxes.shape[1] < columns:
        raise ValueError(f"{name}.boxes must be (K, >= {columns}), got {tuple(boxes.shape)}")
    if kinds.shape != boxes.shape[:1] or kinds.dtype != torch.int64:
        got = f"{tuple(kinds.shape)} {kinds.dtype}"
        raise ValueError(f"{name}.classes must be ({len(boxes)},) int64, one a box, got {got}")


def check_labels(index: int, labels: Labels, columns: int, classes: int) -> None:
    """Raises: ValueError that says what is wrong with the labels of sample ``index``; TypeError as
    ``check_form``."""
    check_form(index, labels, columns)
    boxes, kinds = labels
    if not boxes[:, :7].isfinite().all():
        raise ValueError(f"labels[{index}].boxes must be finite, got {boxes[:, :7].tolist()}")
    if ((kinds < 0) | (kinds >= classes)).any():
        raise ValueError(f"labels[{index}].classes must be in 0 .. {classes - 1}, got {kinds.tolist()}")
