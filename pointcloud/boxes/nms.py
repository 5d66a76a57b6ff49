"""Greedy suppression of boxes that overlap a better one, seen from above."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...kernels.errors import ShapeError
from .checks import check_boxes, check_limit, check_scores
from .overlaps import pairs_above

BLOCK = 128  # boxes settled together; those that they suppress are never cut with anything else


@torch.no_grad()
def nms_bev(
    boxes: Tensor, scores: Tensor, threshold: float, pre: int | None = None, post: int | None = None
) -> Tensor:
    """Keeps the best box, drops what overlaps it by more than ``threshold``, and so on down the scores.

    Args:
        boxes: (N, 7 or more).  scores: (N,); of equal ones the box that comes first is the better.
        threshold: intersection over union in BEV, 0 to 1.
        pre, post: how many of the best to look at, and to keep; None: all.
    Returns: int64 indices of the kept boxes, best first.
    Raises: ValueError for sizes that are not above zero, NaN scores, a threshold or limit out of range.
    """
    check_boxes("nms_bev", "boxes", boxes)
    check_scores("nms_bev", scores, boxes)
    _check_threshold("nms_bev", threshold)
    check_limit("nms_bev", "pre", pre)
    check_limit("nms_bev", "post", post)
    order = _best_first(scores)[:pre]
    return order[_greedy(boxes[order].double(), threshold, post)]


def nms_by_class(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    thresholds: float | Sequence[float | None],
    pre: int | None = None,
    post: int | None = None,
) -> Tensor:
    """``nms_bev`` within each class; ``pre`` and ``post`` hold for each class.

    Args:
        classes: (N,) int64 from 0.
        thresholds: one for all classes, or one a class, None where a class is left as it is.
    Returns: int64 indices of the kept boxes of all classes, best first.
    """
    check_scores("nms_by_class", scores, boxes)
    if classes.shape != scores.shape or classes.dtype != torch.int64:
        got = f"{tuple(classes.shape)} {classes.dtype}"
        raise ShapeError(f"nms_by_class: classes must be ({len(boxes)},) int64, got {got}")
    kept = [classes[:0]]
    for number in classes.unique().tolist():
        members = (classes == number).nonzero()[:, 0]
        threshold = _threshold_of(number, thresholds)
        if threshold is None:
            kept.append(members[_best_first(scores[members])[:pre][:post]])
        else:
            kept.append(members[nms_bev(boxes[members], scores[members], threshold, pre, post)])
    together = torch.cat(kept).sort().values
    return together[_best_first(scores[together])]


def _threshold_of(number: int, thresholds: float | Sequence[float | None]) -> float | None:
    if not isinstance(thresholds, Sequence):
        return thresholds
    if not 0 <= number < len(thresholds):
        text = f"thresholds must have one entry a class, got {len(thresholds)} and a box of class {number}"
        raise ValueError(f"nms_by_class: {text}")
    return thresholds[number]


def _check_threshold(op: str, threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise ValueError(f"{op}: threshold must lie in 0..1 (intersection over union), got {threshold}")


def _best_first(scores: Tensor) -> Tensor:
    return scores.argsort(descending=True, stable=True)


def _greedy(boxes: Tensor, threshold: float, post: int | None) -> Tensor:
    """Rows kept, rising; ``boxes`` are float64, best first."""
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    kept, found = [alive[:0].long()], 0
    for start in range(0, len(boxes), BLOCK):
        block = alive[start : start + BLOCK].nonzero()[:, 0] + start
        block = block[_settle(boxes[block], threshold)]
        kept.append(block)
        found += len(block)
        if post is not None and found >= post:
            break
        rest = alive[start + BLOCK :].nonzero()[:, 0] + start + BLOCK
        alive[rest[pairs_above(boxes[block], boxes[rest], threshold)[1]]] = False
    return torch.cat(kept)[:post]


def _settle(boxes: Tensor, threshold: float) -> Tensor:
    """Which of a block are kept (n,) bool: a box is, if no kept one before it overlaps it.

    Solved by repetition from "all kept": after round r the boxes with fewer than r better ones are right.
    """
    better, worse = pairs_above(boxes, boxes, threshold)
    better, worse = (side[better < worse] for side in (better, worse))
    keep = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    while True:
        after = torch.ones_like(keep)
        after[worse[keep[better]]] = False
        if torch.equal(after, keep):
            return keep
        keep = after
