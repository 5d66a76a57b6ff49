"""Terms of a head's loss that look at decoded boxes, row beside row with what they should be."""

from torch import Tensor

from ..box_losses import axis_aligned_diou_loss, rotated_iou_loss
from ..boxes import iou_3d_of_pairs
from ..losses import at_least_float32, sum_over_objects


def overlap_loss(kind: str, boxes: Tensor, target: Tensor) -> Tensor:
    """(K, 7) twice -> mean of 1 - DIoU: ``"diou"`` as if yaw were 0, ``"rotated"`` of the boxes as they stand."""
    if kind == "diou":
        return axis_aligned_diou_loss(boxes, target)
    return rotated_iou_loss(boxes, target, distance=True)


def overlap_branch_loss(said: Tensor, boxes: Tensor, target: Tensor) -> Tensor:
    """Mean L1 between the branch (K,) and 2 IoU3D - 1 of the boxes (K, 7), which it does not train."""
    goal = 2 * iou_3d_of_pairs(boxes.detach(), target) - 1
    return sum_over_objects((at_least_float32(said) - goal).abs())
