"""CenterPoint's head, arXiv 2006.11275: objects are peaks of a heat map, their boxes are read at the peak."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..losses import at_least_float32, gaussian_focal_loss
from ..records import Detections, Labels
from ..voxels import VoxelGrid
from .box_terms import box_terms
from .branches import Branches, conv_norm_relu
from .cells import MapCells
from .center_code import CODE, VELOCITY, decode
from .center_targets import CenterTargets, center_targets
from .options import Decoding, LossWeights
from .suppress import rescore, suppress, within


class CenterHead(nn.Module):
    """One group of branches for all classes, with the authors' parameter names (``dense_head.``).

    Args:
        in_channels: of the map.  classes: names, in the order of the class indices.
        grid, stride: the space that the map covers, and voxels a map cell.
        velocity: boxes have vx, vy.  iou: a branch predicts how well a box fits.
        width: channels of the shared convolution and of every branch.
        bias_before_norm: a bias in convolutions that a norm follows.
    Raises: ValueError when ``decoding`` asks for a rescoring without ``iou``, or has not one value a class.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        classes: Sequence[str],
        grid: VoxelGrid,
        stride: int,
        velocity: bool = False,
        iou: bool = True,
        width: int = 64,
        losses: LossWeights | None = None,
        decoding: Decoding | None = None,
        bias_before_norm: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.classes = in_channels, tuple(classes)
        self.cells = MapCells(grid=grid, stride=stride)
        self.losses = losses or LossWeights()
        self.decoding = decoding or Decoding()
        self.powers = self.decoding.powers(len(self.classes))
        self.thresholds = self.decoding.thresholds(len(self.classes))
        if any(self.powers) and not iou:
            raise ValueError(f"decoding.iou_power must be 0 without iou=True, got {self.decoding.iou_power}")
        self.code = CODE | (VELOCITY if velocity else {})
        outputs = self.code | ({"iou": 1} if iou else {}) | {"hm": len(self.classes)}
        self.shared_conv = conv_norm_relu(in_channels, width, bias=bias_before_norm)
        self.heads_list = nn.ModuleList([Branches(width, outputs, rare="hm", bias=bias_before_norm)])

    @property
    def velocity(self) -> bool:
        """Whether boxes have nine columns."""
        return "vel" in self.code

    def forward(self, bev: Tensor) -> dict[str, Tensor]:
        """Map (B, in_channels, Y, X) -> a map for each branch; ``hm`` and ``iou`` are logits and -1..1."""
        self.cells.check("CenterHead", bev, self.in_channels)
        return self.heads_list[0](self.shared_conv(bev))

    def targets(self, raw: dict[str, Tensor], labels: Sequence[Labels]) -> CenterTargets:
        """What ``raw`` should have been."""
        return center_targets(labels, at_least_float32(raw["hm"]), self.cells, velocity=self.velocity)

    def loss(self, raw: dict[str, Tensor], labels: Sequence[Labels]) -> dict[str, Tensor]:
        """Weighted terms ``heatmap``, ``box`` and, where the head has them, ``iou`` and ``overlap``.

        Each is divided by the number of objects of the whole batch, or by 1. NaN velocities teach nothing.
        Raises: ValueError for labels that do not fit.
        """
        target = self.targets(raw, labels)
        at = (target.sample, target.row, target.column)
        code = self.code_at(raw, *at)
        boxes = decode(code, torch.stack((target.column, target.row), dim=1), self.cells)
        said = raw["iou"][at[0], 0, at[1], at[2]] if "iou" in raw else None
        heat = self.losses.heatmap * gaussian_focal_loss(raw["hm"], target.heat)
        return {"heatmap": heat} | box_terms(self.losses, code, target.code, boxes, target.boxes, said)

    def code_at(self, raw: dict[str, Tensor], sample: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """The code of cells: three (K,) int64 -> (K, 8 or 10)."""
        parts = [raw[name][sample, :, row, column] for name in self.code]
        return torch.cat([at_least_float32(part) for part in parts], dim=1)

    @torch.no_grad()
    def peaks(self, raw: dict[str, Tensor]) -> list[Detections]:
        """Boxes at the best cells that pass ``decoding``'s score and limit, rescored, not yet suppressed."""
        heat = at_least_float32(raw["hm"]).sigmoid().flatten(1)
        scores, places = heat.topk(min(self.decoding.top, heat.shape[1]))
        height, width = raw["hm"].shape[2:]
        found = []
        for sample, (score, place) in enumerate(zip(scores, places, strict=True)):
            kind, row, column = place // (height * width), place // width % height, place % width
            at = (torch.full_like(row, sample), row, column)
            boxes = decode(self.code_at(raw, *at), torch.stack((column, row), dim=1), self.cells)
            if "iou" in raw:
                overlap = at_least_float32(raw["iou"])[at[0], 0, row, column]
                final = rescore(score, kind, overlap, self.powers)
            else:
                final = score
            kept = (score > self.decoding.score) & within(boxes, self.decoding.limit)
            found.append(Detections(boxes[kept], final[kept], kind[kept]))
        return found

    @torch.no_grad()
    def decode(self, raw: dict[str, Tensor]) -> list[Detections]:
        """What was found in each sample, best first."""
        limits = self.decoding
        return [suppress(found, self.thresholds, limits.pre, limits.post) for found in self.peaks(raw)]
