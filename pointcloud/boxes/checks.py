"""What box functions ask of their arguments; each raises before anything is computed."""

import torch
from torch import Tensor

from ...kernels.errors import ShapeError


def check_rows(op: str, name: str, x: object, columns: int, layout: str) -> None:
    """A floating-point tensor of rows with at least so many columns; no rows are fine."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor {layout}, got {type(x).__name__}")
    if not x.dtype.is_floating_point:
        raise TypeError(f"{op}: {name} must be floating point, got {x.dtype}")
    if x.dim() != 2 or x.shape[1] < columns:
        raise ShapeError(f"{op}: {name} must be {layout}, got {tuple(x.shape)}")


def check_points(op: str, name: str, points: object) -> None:
    check_rows(op, name, points, 3, "(P, 3 or more): x, y, z, then anything")


def check_box_rows(op: str, name: str, boxes: object) -> None:
    check_rows(op, name, boxes, 7, "(N, 7 or more): x, y, z, dx, dy, dz, yaw, then anything")


def check_boxes(op: str, name: str, boxes: Tensor) -> None:
    """Box rows with an extent: finite numbers, every size above zero."""
    check_box_rows(op, name, boxes)
    row = first_unfit(boxes[:, :7])
    if row is not None:
        values = [round(value, 4) for value in boxes[row, :7].tolist()]
        raise ValueError(f"{op}: {name} must be finite with dx, dy, dz > 0, got row {row}: {values}")


def first_unfit(boxes: Tensor) -> int | None:
    """The first row with a number that is not finite or a size that is not above zero; None where all fit."""
    good = boxes.isfinite().all(1) & (boxes[:, 3:6] > 0).all(1)
    return None if bool(good.all()) else int((~good).nonzero()[0])


def check_pairs(op: str, a: Tensor, b: Tensor) -> None:
    """Two lists of boxes, row beside row."""
    check_boxes(op, "a", a)
    check_boxes(op, "b", b)
    if len(a) != len(b):
        raise ShapeError(f"{op}: b must have a row for each of the {len(a)} of a, got {len(b)}")


def check_limit(op: str, name: str, limit: object) -> None:
    if limit is None:
        return
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"{op}: {name} must be an integer or None, got {type(limit).__name__}")
    if limit < 1:
        raise ValueError(f"{op}: {name} must be >= 1 or None, got {limit}")


def check_scores(op: str, scores: object, boxes: Tensor) -> None:
    if not isinstance(scores, Tensor) or scores.shape != boxes.shape[:1]:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ShapeError(f"{op}: scores must be one number a box, ({len(boxes)},), got {got}")
    if bool(torch.isnan(scores).any()):
        raise ValueError(f"{op}: scores must be numbers, got NaN in row {int(scores.isnan().nonzero()[0])}")
