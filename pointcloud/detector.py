"""A LiDAR detector: points -> voxels -> backbone -> bird's-eye map -> neck -> head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .bev import bev_map
from .heads.flat_labels import check_form
from .records import Detections, Labels
from .vfe import DynamicVoxelFeatureEncoder
from .voxelize import voxelize
from .voxels import VoxelGrid


class BackboneConfig(Protocol):
    """A frozen dataclass of a backbone's settings."""

    grid: VoxelGrid

    def build(self) -> nn.Module:
        """The backbone: Voxels -> Voxels."""


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Everything about a detector but its weights.

    classes: names, in the order of the class indices.
    point_features: values of a point, x, y, z included.  tanh: which of them pass through tanh first.
    vfe_widths: of the voxel feature encoder's layers; the last is what the backbone takes.
    backbone: its own config, which holds the grid.
    bev_channels, bev_stride: of the map that the neck takes; voxels a cell.
    neck: (channels) -> neck.  head: (channels, classes=, grid=, stride=) -> head.
    notes: what is not as published.
    """

    classes: tuple[str, ...]
    point_features: int
    vfe_widths: tuple[int, ...]
    backbone: BackboneConfig
    bev_channels: int
    bev_stride: int
    neck: Callable[..., nn.Module]
    head: Callable[..., nn.Module]
    tanh: tuple[int, ...] = ()
    notes: str = ""

    @property
    def grid(self) -> VoxelGrid:
        return self.backbone.grid

    def with_backbone(self, **changes: Any) -> DetectorConfig:
        """The same with fields of the backbone's config replaced.

        Raises: TypeError for a field that it does not have.
        """
        return replace(self, backbone=replace(self.backbone, **changes)) if changes else self


class Detector(nn.Module):
    """The four parts under the authors' names: ``vfe``, ``backbone_3d``, ``backbone_2d``, ``dense_head``."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.vfe = DynamicVoxelFeatureEncoder(config.point_features, config.vfe_widths, tanh=config.tanh)
        self.backbone_3d = config.backbone.build()
        self.backbone_2d = config.neck(config.bev_channels)
        stride = config.bev_stride * self.backbone_2d.out_stride
        self.dense_head = config.head(
            self.backbone_2d.out_channels, classes=config.classes, grid=config.grid, stride=stride
        )

    def forward(self, points: Sequence[Tensor]) -> dict[str, Tensor]:
        """Points of each frame (N_i, point_features), x, y, z first in metres -> the head's raw maps.

        Raises: ValueError, TypeError or ShapeError naming the frame whose points do not fit.
        """
        voxels = self.vfe(voxelize(points, self.config.grid))
        return self.dense_head(self.backbone_2d(bev_map(self.backbone_3d(voxels))))

    def loss(self, points: Sequence[Tensor], labels: Sequence[Labels]) -> dict[str, Tensor]:
        """The head's weighted terms, to be added up.

        Boxes whose centre is outside the grid, and those without an extent, are passed by.
        Raises: ValueError, TypeError or ShapeError naming the frame whose points or labels do not fit.
        """
        for name, value in (("points", points), ("labels", labels)):
            if isinstance(value, Tensor | Labels):
                raise TypeError(f"{name} must be a list with an entry a frame, got {type(value).__name__}")
        if len(points) != len(labels):
            raise ValueError(f"labels must be one for each of the {len(points)} frames, got {len(labels)}")
        inside = [self.within(each, index) for index, each in enumerate(labels)]
        return self.dense_head.loss(self(points), inside)

    def within(self, labels: Labels, index: int = 0) -> Labels:
        """The labels of frame ``index`` whose centres lie in the grid, seen from above, or are no number."""
        check_form(index, labels, columns=7)
        low_x, low_y, _, high_x, high_y, _ = self.config.grid.point_range
        x, y = labels.boxes[:, 0], labels.boxes[:, 1]
        outside = (x < low_x) | (x >= high_x) | (y < low_y) | (y >= high_y)  # NaN is not: the head refuses it
        return Labels(labels.boxes[~outside], labels.classes[~outside])

    @torch.no_grad()
    def detect(self, points: Sequence[Tensor]) -> list[Detections]:
        """What is found in each frame, best first. In training mode batch statistics are used: call
        ``eval()`` before."""
        return self.dense_head.decode(self(points))
