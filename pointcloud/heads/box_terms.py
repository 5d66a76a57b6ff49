"""Terms of a head's loss about boxes, row beside row with what they should be."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..box_losses import axis_aligned_diou_loss, rotated_iou_loss
from ..boxes import iou_3d_of_pairs
from ..losses import at_least_float32, sum_over_objects
from .options import LossWeights


def box_terms(
    weights: LossWeights, code: Tensor, goal: Tensor, boxes: Tensor, known: Tensor, said: Tensor | None
) -> dict[str, Tensor]:
    """Weighted terms ``box`` and, where asked for, ``iou`` and ``overlap``, each a mean over the K objects.

    code, goal: (K, 8 or 10), velocities last.  boxes, known: (K, >= 7), the decoded code and the labels.
    said: (K,), the branch that predicts the overlap, or None.
    """
    boxes, known = boxes[:, :7], known[:, :7]
    terms = {"box": weights.box * code_loss(code, goal, weights.velocity)}
    if said is not None:
        terms["iou"] = weights.iou * overlap_branch_loss(said, boxes, known)
    if weights.box_loss is not None:
        terms["overlap"] = weights.overlap * overlap_loss(weights.box_loss, boxes, known)
    return terms


def code_loss(code: Tensor, goal: Tensor, velocity: float) -> Tensor:
    """L1 of codes (K, 8 or 10), summed over the code, mean over objects; ``velocity`` weighs the last two.

    Where the goal is not finite (an unknown velocity) there is nothing to learn.
    """
    known = goal.isfinite()
    error = F.l1_loss(code, torch.where(known, goal, code.detach()), reduction="none")
    per_code = code.new_ones(code.shape[1])
    per_code[8:] = velocity
    return sum_over_objects(error, per_code)


def overlap_branch_loss(said: Tensor, boxes: Tensor, known: Tensor) -> Tensor:
    """Mean L1 between the branch (K,) and 2 IoU3D - 1 of the boxes (K, 7), which it does not train."""
    goal = 2 * iou_3d_of_pairs(boxes.detach(), known) - 1
    return sum_over_objects((at_least_float32(said) - goal).abs())


def overlap_loss(kind: str, boxes: Tensor, known: Tensor) -> Tensor:
    """(K, 7) twice -> mean of 1 - DIoU: ``"diou"`` as if yaw were 0, ``"rotated"`` of boxes as they stand."""
    if kind == "diou":
        return axis_aligned_diou_loss(boxes, known)
    return rotated_iou_loss(boxes, known, distance=True)
