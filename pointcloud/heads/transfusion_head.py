"""TransFusion's head for LiDAR alone, arXiv 2203.11496: the best cells of a heat map become queries.

Both published detectors let a query see only the map about its own cell. What they do otherwise:

                  border    swap_axes   height
    ScatterFormer "clamp"   False       "centre"
    LION          "wrap"    True        "top"
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..losses import at_least_float32, gaussian_focal_loss, sigmoid_focal_loss
from ..records import Detections, Labels
from ..voxels import VoxelGrid
from .box_terms import box_terms
from .branches import QueryBranches, heat_map_stack
from .cells import MapCells
from .center_code import cells_of
from .flat_labels import FlatLabels, flatten_labels
from .gaussians import draw_gaussians, gaussian_radius
from .matching import assign, match_cost
from .options import NUSCENES_LOSSES, Decoding, LossWeights
from .proposals import Proposals, best_cells
from .query_code import CODE, HEIGHTS, VELOCITY, decode, encode
from .query_decoder import QueryDecoder
from .suppress import rescore, suppress, within

CROWDED = ("pedestrian", "traffic_cone")  # small objects that stand close together
CROWDED_OVERLAP = 0.175  # above which one of two boxes of them goes


def nuscenes_decoding(classes: Sequence[str], crowded: Sequence[str] = CROWDED) -> Decoding:
    """The published limits: scores mixed half and half with overlaps, suppression in crowded classes only."""
    nms = tuple(CROWDED_OVERLAP if name in crowded else None for name in classes)
    return Decoding(score=0.0, limit=None, iou_power=0.5, nms=nms)


class TransFusionHead(nn.Module):
    """Parameter names are the authors' (``dense_head.``).

    Args:
        in_channels: of the map.  classes: names, in the order of the class indices.
        grid, stride: the space that the map covers, and voxels a map cell.
        border: "clamp" or "wrap": what a query near the border sees (``local_attention``).
        swap_axes: the head works on the map with x along rows, and draws its heat map so.
        height: "centre" or "top": which z of a box is regressed.
        queries: of a sample.  width, heads, hidden: of the decoder layer and its MLP; branches are 64 wide.
        radius: a query sees (2 radius + 1)^2 cells.
        crowded: names of classes in which any cell may become a query; names that are no class are passed by.
        bias_before_norm, norm_eps: a bias in convolutions that a norm follows; epsilon of every batch norm.
    Raises: ValueError for a word that is not one of those named.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        classes: Sequence[str],
        grid: VoxelGrid,
        stride: int,
        border: str,
        swap_axes: bool,
        height: str,
        queries: int = 200,
        velocity: bool = True,
        iou: bool = True,
        width: int = 128,
        heads: int = 8,
        hidden: int = 256,
        radius: int = 20,
        crowded: Sequence[str] = CROWDED,
        losses: LossWeights = NUSCENES_LOSSES,
        decoding: Decoding | None = None,
        bias_before_norm: bool = False,
        norm_eps: float = 1e-3,
    ) -> None:
        super().__init__()
        if height not in HEIGHTS:
            raise ValueError(f"height must be one of {HEIGHTS}, got {height!r}")
        self.in_channels, self.classes, self.queries = in_channels, tuple(classes), queries
        self.cells, self.swap_axes, self.height = MapCells(grid=grid, stride=stride), swap_axes, height
        self.losses = losses
        self.decoding = decoding or nuscenes_decoding(classes, crowded)
        self.powers = self.decoding.powers(len(self.classes))
        self.thresholds = self.decoding.thresholds(len(self.classes))
        if any(self.powers) and not iou:
            raise ValueError(f"decoding.iou_power must be 0 without iou=True, got {self.decoding.iou_power}")
        self.everywhere = tuple(name in crowded for name in self.classes)
        self.code = CODE | (VELOCITY if velocity else {})
        outputs = self.code | ({"iou": 1} if iou else {}) | {"heatmap": len(self.classes)}
        self.shared_conv = nn.Conv2d(in_channels, width, 3, padding=1)
        self.heatmap_head = heat_map_stack(width, len(self.classes), bias=bias_before_norm, eps=norm_eps)
        self.class_encoding = nn.Conv1d(len(self.classes), width, 1)
        self.decoder = QueryDecoder(
            width, heads=heads, hidden=hidden, radius=radius, border=border, norm_eps=norm_eps
        )
        self.prediction_head = QueryBranches(
            width, outputs, rare="heatmap", bias=bias_before_norm, eps=norm_eps
        )

    @property
    def velocity(self) -> bool:
        """Whether boxes have nine columns."""
        return "vel" in self.code

    def forward(self, bev: Tensor) -> dict[str, Tensor]:
        """Map (B, in_channels, Y, X) -> what each of the Q queries says, and where they come from.

        ``dense_heatmap`` (B, classes, Y, X), logits (x along rows when ``swap_axes``); ``query_class`` (B, Q)
        int64 and ``query_score`` (B, Q), of the cell that became a query; then (B, channels, Q): ``center``
        on the map, in cells, the other branches as they are, ``heatmap`` being logits of the classes.
        Raises: ShapeError for a map that is not the grid's.
        """
        self.cells.check("TransFusionHead", bev, self.in_channels)
        features = self.shared_conv(bev.transpose(2, 3) if self.swap_axes else bev)
        heat = self.heatmap_head(features)
        everywhere = torch.tensor(self.everywhere, device=bev.device)
        start = best_cells(at_least_float32(heat.detach()).sigmoid(), self.queries, everywhere)
        raw = {"dense_heatmap": heat, "query_class": start.classes, "query_score": start.scores}
        return raw | self.ask(features, start)

    def ask(self, features: Tensor, start: Proposals) -> dict[str, Tensor]:
        """The branches of queries that start at cells of a map (B, C, rows, columns)."""
        sample = torch.arange(len(features), device=features.device)[:, None]
        query = features[sample, :, start.row, start.column].transpose(1, 2)
        kind = F.one_hot(start.classes, len(self.classes)).to(features).transpose(1, 2)
        at = self.middles(start.row, start.column).transpose(0, 1)
        rows, columns = (torch.arange(n, device=features.device) for n in features.shape[2:])
        grid = self.middles(*(g.flatten() for g in torch.meshgrid(rows, columns, indexing="ij")))
        query = query + self.class_encoding(kind)
        query = self.decoder(query, at.to(features), features, grid.to(features), start.row, start.column)
        said = self.prediction_head(query)
        return said | {"center": at_least_float32(said["center"]) + at}

    def middles(self, row: Tensor, column: Tensor) -> Tensor:
        """(x, y) of the middles of cells on the map, stacked in front: (...) twice -> (2, ...)."""
        return torch.stack((row, column) if self.swap_axes else (column, row)) + 0.5

    def heat_target(self, known: FlatLabels, heat: Tensor) -> Tensor:
        """Heat maps (B, classes, rows, columns) with a Gaussian for each labelled box."""
        x_size, y_size = self.cells.size
        radius = gaussian_radius(known.boxes[:, 3] / x_size, known.boxes[:, 4] / y_size)
        x, y = cells_of(known.boxes, self.cells)[1].unbind(1)
        row, column = (x, y) if self.swap_axes else (y, x)
        plane = known.sample * len(self.classes) + known.classes
        return draw_gaussians(plane, column, row, radius, heat.flatten(0, 1)).view_as(heat)

    def codes(self, raw: dict[str, Tensor]) -> Tensor:
        """(B, Q, 8 or 10)."""
        return torch.cat([at_least_float32(raw[name]) for name in self.code], dim=1).transpose(1, 2)

    def match(self, boxes: Tensor, logits: Tensor, known: FlatLabels) -> tuple[Tensor, Tensor, Tensor]:
        """Of each pair sample, query and row of ``known``; boxes (B, Q, >= 7), logits (B, Q, classes)."""
        parts = []
        for sample in range(len(boxes)):
            own = (known.sample == sample).nonzero()[:, 0]
            words = (known.boxes[own], known.classes[own], self.cells.grid.point_range)
            pairs = assign(match_cost(boxes[sample], logits[sample], *words))
            parts.append(torch.stack((torch.full_like(pairs.query, sample), pairs.query, own[pairs.label])))
        return torch.cat(parts, dim=1).unbind()

    def loss(self, raw: dict[str, Tensor], labels: Sequence[Labels]) -> dict[str, Tensor]:
        """Weighted terms ``heatmap``, ``classes``, ``box``, and ``iou``, ``overlap`` where the head has them.

        Each is divided by the number of objects of the whole batch, or by 1. NaN velocities teach nothing.
        Raises: ValueError for labels that do not fit; ImportError without scipy, which matches queries.
        """
        heat = at_least_float32(raw["dense_heatmap"])
        words = {"batch_size": len(heat), "classes": len(self.classes), "velocity": self.velocity}
        known = flatten_labels(labels, heat.detach(), **words)
        code, logits = self.codes(raw), at_least_float32(raw["heatmap"]).transpose(1, 2)
        boxes = decode(code.flatten(0, 1), self.cells, self.height).unflatten(0, code.shape[:2])
        sample, query, label = self.match(boxes.detach(), logits.detach(), known)
        kind = torch.zeros_like(logits)
        kind[sample, query, known.classes[label]] = 1
        terms = {
            "heatmap": self.losses.heatmap
            * gaussian_focal_loss(heat, self.heat_target(known, heat.detach())),
            "classes": self.losses.classes * sigmoid_focal_loss(logits, kind).sum() / max(len(label), 1),
        }
        goal = encode(known.boxes[label], self.cells, self.height)
        said = raw["iou"][sample, 0, query] if "iou" in raw else None
        pairs = (code[sample, query], goal, boxes[sample, query], known.boxes[label])
        return terms | box_terms(self.losses, *pairs, said)

    @torch.no_grad()
    def decode(self, raw: dict[str, Tensor]) -> list[Detections]:
        """What was found in each sample, best first; a query keeps the class that it started with."""
        logits = at_least_float32(raw["heatmap"])
        scores = logits.gather(1, raw["query_class"][:, None])[:, 0].sigmoid() * raw["query_score"]
        found = []
        for sample, (code, score, kind) in enumerate(
            zip(self.codes(raw), scores, raw["query_class"], strict=True)
        ):
            boxes = decode(code, self.cells, self.height)
            kept = (score > self.decoding.score) & within(boxes, self.decoding.limit)
            if "iou" in raw:
                score = rescore(score, kind, at_least_float32(raw["iou"][sample, 0]), self.powers)
            best = score.masked_fill(~kept, -1).sort(descending=True, stable=True).indices
            best = best[: min(int(kept.sum()), self.decoding.top)]
            some = Detections(boxes[best], score[best], kind[best])
            found.append(suppress(some, self.thresholds, self.decoding.pre, self.decoding.post))
        return found
