"""SECOND's anchor head, which LION has on KITTI: every anchor says what it is and how a box differs from it.

Source: SECOND, Sensors 2018 (Yan, Mao, Li), sections 3.1.4 and 3.2.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..boxes import nms_bev
from ..losses import at_least_float32, sigmoid_focal_loss
from ..records import Detections, Labels
from ..voxels import VoxelGrid
from .anchor_targets import anchor_targets
from .anchors import YAWS, Anchor, anchor_boxes, decode, direction_of, encode
from .cells import MapCells
from .flat_labels import flatten_labels
from .options import Decoding
from .suppress import within

SMOOTH = 1 / 9  # errors below it are squared
RARE = -math.log(99)  # bias of the class scores: sigmoid = 0.01
KITTI_DECODING = Decoding(top=4096, score=0.1, limit=None, nms=0.01)


@dataclass(frozen=True, kw_only=True)
class AnchorLossWeights:
    """Of the focal loss on classes, the smooth L1 on codes, the cross-entropy on directions."""

    classes: float = 1.0
    box: float = 2.0
    direction: float = 0.2


class AnchorHead(nn.Module):
    """1x1 convolutions to scores, codes and directions of two anchors a class in every cell.

    Args:
        in_channels: of the map.
        anchors: name of each class, in the order of the class indices, and its Anchor. ``KITTI_ANCHORS`` has
            the sizes and heights commonly published with SECOND's KITTI models.
        grid, stride: the space that the map covers, and voxels a map cell.
        decoding: ``nms`` is one overlap, above which the worse box goes whatever its class.
    Raises: ValueError for a decoding that asks for what the head has not.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        anchors: Mapping[str, Anchor],
        grid: VoxelGrid,
        stride: int,
        losses: AnchorLossWeights | None = None,
        decoding: Decoding = KITTI_DECODING,
    ) -> None:
        super().__init__()
        if decoding.iou_power != 0:
            raise ValueError(f"decoding.iou_power must be 0 for AnchorHead, got {decoding.iou_power}")
        if not isinstance(decoding.nms, float | int):
            raise ValueError(f"decoding.nms must be one overlap for AnchorHead, got {decoding.nms}")
        self.in_channels, self.classes, self.anchors = in_channels, tuple(anchors), tuple(anchors.values())
        self.cells = MapCells(grid=grid, stride=stride)
        self.losses, self.decoding = losses or AnchorLossWeights(), decoding
        per_cell = len(self.anchors) * len(YAWS)
        self.conv_cls = nn.Conv2d(in_channels, per_cell * len(self.classes), 1)
        self.conv_box = nn.Conv2d(in_channels, per_cell * 7, 1)
        self.conv_dir_cls = nn.Conv2d(in_channels, per_cell * 2, 1)
        nn.init.constant_(self.conv_cls.bias, RARE)
        nn.init.normal_(self.conv_box.weight, std=0.001)

    def forward(self, bev: Tensor) -> dict[str, Tensor]:
        """Map (B, in_channels, Y, X) -> ``classes``, ``box``, ``direction``: (B, Y, X, classes, 2, values).

        values: a logit for each class, the 7 numbers of the code, a logit for each half turn.
        """
        self.cells.check("AnchorHead", bev, self.in_channels)
        maps = {"classes": self.conv_cls(bev), "box": self.conv_box(bev), "direction": self.conv_dir_cls(bev)}
        split = (len(self.anchors), len(YAWS), -1)
        return {name: x.permute(0, 2, 3, 1).unflatten(3, split) for name, x in maps.items()}

    def loss(self, raw: dict[str, Tensor], labels: Sequence[Labels]) -> dict[str, Tensor]:
        """Weighted terms ``classes``, ``box`` and ``direction``.

        In each sample they are divided by the number of anchors that answer for a box, or by 1; the samples
        are averaged. The error of the yaw is the sine of the difference, so that half a turn costs nothing
        here: that is the direction's affair.
        Raises: ValueError for labels that do not fit.
        """
        logits = at_least_float32(raw["classes"])
        batch, weights = len(logits), self.losses
        words = {"batch_size": batch, "classes": len(self.classes), "velocity": False}
        known = flatten_labels(labels, logits.detach(), **words)
        target = anchor_targets(known, batch, self.anchors, self.cells)
        at = (target.label >= 0).nonzero().unbind(1)  # sample, row, column, class, yaw
        boxes, anchors = known.boxes[target.label[at]], anchor_boxes(self.anchors, self.cells, logits.device)
        share = 1 / (target.label >= 0).flatten(1).sum(1).clamp(min=1).to(logits) / batch  # (B,)

        answer = torch.zeros_like(logits)
        answer[(*at, at[3])] = 1
        focal = sigmoid_focal_loss(logits, answer).sum(-1) * target.trained
        goal = encode(boxes, anchors[at[1:]].to(boxes))
        error = code_error(at_least_float32(raw["box"])[at], goal).sum(1)
        half = F.cross_entropy(
            at_least_float32(raw["direction"])[at], direction_of(boxes[:, 6]), reduction="none"
        )
        return {
            "classes": weights.classes * (focal.flatten(1).sum(1) * share).sum(),
            "box": weights.box * (error * share[at[0]]).sum(),
            "direction": weights.direction * (half * share[at[0]]).sum(),
        }

    @torch.no_grad()
    def decode(self, raw: dict[str, Tensor]) -> list[Detections]:
        """What was found in each sample, best first."""
        limits, found = self.decoding, []
        anchors = anchor_boxes(self.anchors, self.cells, raw["box"].device).view(-1, 7)
        maps = (at_least_float32(raw[name]) for name in ("classes", "box", "direction"))
        for logits, code, direction in zip(*maps, strict=True):
            scores, kinds = logits.flatten(0, 3).sigmoid().max(-1)
            scores, best = scores.topk(min(limits.top, len(scores)))
            half = direction.flatten(0, 3)[best].argmax(-1)
            boxes = decode(code.flatten(0, 3)[best], anchors[best].to(code), half)
            kept = (scores > limits.score) & within(boxes, limits.limit)
            boxes, scores, kinds = boxes[kept], scores[kept], kinds[best][kept]
            kept = nms_bev(boxes, scores, limits.nms, limits.pre, limits.post)
            found.append(Detections(boxes[kept], scores[kept], kinds[kept]))
        return found


def code_error(code: Tensor, goal: Tensor) -> Tensor:
    """Smooth L1 (K, 7) of codes (K, 7), of the sine of the difference for the yaw."""
    difference = code - goal
    difference = torch.cat((difference[:, :6], difference[:, 6:].sin()), dim=1)
    return F.smooth_l1_loss(difference, torch.zeros_like(difference), beta=SMOOTH, reduction="none")
