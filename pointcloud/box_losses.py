"""How far predicted boxes are from their targets: 1 - IoU of turned boxes, 1 - DIoU of either kind.

    DIoU = IoU - |centre - centre'|^2 / diagonal^2       diagonal: of the smallest upright box around both

IoU alone has no gradient for boxes that do not touch; the centre term has one everywhere.
Source: DIoU, arXiv 1911.08287; of turned boxes in 3D, arXiv 1908.03851; the axis-aligned form is what
CenterPoint heads train with.
"""

import torch
from torch import Tensor

from ..kernels.errors import ShapeError
from .boxes import iou_3d_of_pairs
from .boxes.checks import check_box_rows
from .boxes.corners import bev_bounds

Bounds = tuple[Tensor, Tensor]


def axis_aligned_diou(a: Tensor, b: Tensor) -> Tensor:
    """DIoU in 3D as if every yaw were 0, clipped to -1..1: (N, 7 or more) twice -> (N,), row by row."""
    _check_beside("axis_aligned_diou", a, b)
    (low_a, high_a), (low_b, high_b) = bounds = [_as_if_yaw_were_zero(boxes) for boxes in (a, b)]
    shared = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp(min=0).prod(1)
    union = a[:, 3:6].prod(1) + b[:, 3:6].prod(1) - shared
    return (shared / union - _distance_term(a, b, *bounds)).clamp(-1, 1)


def axis_aligned_diou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean of 1 - DIoU over the rows, yaw ignored: (N, 7 or more) twice -> scalar; 0 for no rows."""
    return _mean(1 - axis_aligned_diou(predicted, target))


def rotated_diou(a: Tensor, b: Tensor) -> Tensor:
    """DIoU in 3D of turned boxes: (N, 7 or more) twice -> (N,) in -1..1, row by row."""
    _check_beside("rotated_diou", a, b)
    return iou_3d_of_pairs(a, b) - _distance_term(a, b, _around(a), _around(b))


def rotated_iou_loss(predicted: Tensor, target: Tensor, *, distance: bool = False) -> Tensor:
    """Mean over the rows of 1 - IoU in 3D of turned boxes, or of 1 - DIoU.

    Args:
        predicted, target: (N, 7 or more), row beside row. Gradients reach both.
        distance: subtract the centre term, so that boxes apart are drawn together.
    Returns: scalar; 0 for no rows.
    Raises: ValueError for sizes that are not above zero.
    """
    _check_beside("rotated_iou_loss", predicted, target)
    return _mean(1 - (rotated_diou if distance else iou_3d_of_pairs)(predicted, target))


def _check_beside(op: str, a: Tensor, b: Tensor) -> None:
    check_box_rows(op, "the first list", a)
    check_box_rows(op, "the second list", b)
    if len(a) != len(b):
        raise ShapeError(f"{op}: the second list must have a row for each of the {len(a)}, got {len(b)}")


def _mean(losses: Tensor) -> Tensor:
    return losses.sum() / max(1, len(losses))


def _as_if_yaw_were_zero(boxes: Tensor) -> Bounds:
    return boxes[:, :3] - boxes[:, 3:6] / 2, boxes[:, :3] + boxes[:, 3:6] / 2


def _around(boxes: Tensor) -> Bounds:
    low, high = bev_bounds(boxes)
    z, half = boxes[:, 2:3], boxes[:, 5:6] / 2
    return torch.cat((low, z - half), 1), torch.cat((high, z + half), 1)


def _distance_term(a: Tensor, b: Tensor, of_a: Bounds, of_b: Bounds) -> Tensor:
    diagonal = torch.maximum(of_a[1], of_b[1]) - torch.minimum(of_a[0], of_b[0])
    return (a[:, :3] - b[:, :3]).square().sum(1) / diagonal.square().sum(1)
