"""Which query answers for which labelled box: the assignment that costs least in sum."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..boxes import overlaps_3d

CLASS_WEIGHT, CENTRE_WEIGHT, OVERLAP_WEIGHT = 0.15, 0.25, 0.25
ALPHA = 0.25


class Matches(NamedTuple):
    """Pairs: query and label, (K,) int64 each."""

    query: Tensor
    label: Tensor


@torch.no_grad()
def match_cost(
    boxes: Tensor, logits: Tensor, known: Tensor, classes: Tensor, point_range: tuple[float, ...]
) -> Tensor:
    """What it costs that a query stands for a label: (queries, labels).

    0.15 * (focal loss with the class, less that without) + 0.25 * (L1 distance of the centres' x and y, the
    range being 1 an axis) - 0.25 * overlap in 3D.

    boxes: (Q, >= 7), logits: (Q, classes), of the queries.  known: (K, >= 7), classes: (K,), of the labels.
    point_range: low x, y, z, high x, y, z, metres.
    """
    p = logits.sigmoid()
    yes = ALPHA * (1 - p) ** 2 * -F.logsigmoid(logits)
    no = (1 - ALPHA) * p**2 * -F.logsigmoid(-logits)
    extent = boxes.new_tensor(point_range).view(2, 3).diff(dim=0)[:, :2]
    apart = torch.cdist(boxes[:, :2] / extent, known[:, :2] / extent, p=1)
    overlap = overlaps_3d(boxes[:, :7], known[:, :7])
    return CLASS_WEIGHT * (yes - no)[:, classes] + CENTRE_WEIGHT * apart - OVERLAP_WEIGHT * overlap


def assign(cost: Tensor) -> Matches:
    """Cost (queries, labels) -> min(queries, labels) pairs with the least sum, in order of the queries.

    Raises: ImportError without scipy.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        text = 'matching of queries needs scipy: pip install "linzoo[pointcloud]"'
        raise ImportError(text) from error
    pairs = linear_sum_assignment(cost.detach().double().cpu().numpy())
    return Matches(*(torch.from_numpy(side).to(cost.device) for side in pairs))
