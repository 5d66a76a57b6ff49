"""LION's detectors: what follows the backbone on each data set, and small ones for the synthetic scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from .. import street
from ..data.waymo import WAYMO_CLASSES
from ..detector import DetectorConfig
from ..heads import KITTI_ANCHORS, ONCE_LOSSES, WAYMO_DECODING, AnchorHead, CenterHead, TransFusionHead
from ..metrics import KITTI_CLASSES, NUSCENES_CLASSES
from ..necks import ResidualFpn, SecondNeck
from ..voxels import VoxelGrid
from .operators import OPERATORS as REGISTERED
from .variants import FORMS, OPERATORS, VARIANTS, LionConfig

ONCE_CLASSES = ("Car", "Bus", "Truck", "Pedestrian", "Cyclist")


def kitti_head(in_channels: int, *, classes: Sequence[str], grid: VoxelGrid, stride: int) -> AnchorHead:
    anchors = {name: KITTI_ANCHORS[name.lower()] for name in classes}
    return AnchorHead(in_channels, anchors=anchors, grid=grid, stride=stride)


# Waymo's intensity and elongation pass through tanh.
AFTER: Mapping[str, dict[str, Any]] = {
    "waymo": {
        "classes": WAYMO_CLASSES,
        "point_features": 5,
        "tanh": (3, 4),
        "neck": ResidualFpn,
        "head": partial(CenterHead, decoding=WAYMO_DECODING),
    },
    "nuscenes": {
        "classes": NUSCENES_CLASSES,
        "point_features": 5,
        "neck": partial(ResidualFpn, ups=(0.5, 1, 2)),
        "head": partial(TransFusionHead, border="wrap", swap_axes=True, height="top"),
    },
    "once": {
        "classes": ONCE_CLASSES,
        "point_features": 4,
        "neck": SecondNeck,
        "head": partial(CenterHead, iou=False, losses=ONCE_LOSSES),
        "notes": "whether ONCE's head has an overlap branch is not known; this one has none",
    },
    "kitti": {
        "classes": KITTI_CLASSES,
        "point_features": 4,
        "neck": SecondNeck,
        "head": kitti_head,
        "notes": "anchor sizes and heights are those of SECOND, not known to be LION's",
    },
    "small": {
        "classes": street.CLASSES,
        "point_features": street.POINT_FEATURES,
        "neck": street.NECK,
        "head": street.HEAD,
        "notes": "32 channels, shorter groups: ours, for the synthetic scenes",
    },
}
SMALL = LionConfig(channels=32, grid=street.GRID, groups=(1024, 512, 512, 256))


def detector(form: str, backbone: LionConfig) -> DetectorConfig:
    """``form`` is a key of ``AFTER``, or one with ``_large`` behind it."""
    width = backbone.channels
    return DetectorConfig(
        backbone=backbone,
        vfe_widths=(width, width),
        bev_channels=2 * width,  # two cells of height are left
        bev_stride=1,
        **AFTER[form.removesuffix("_large")],
    )


DETECTORS: dict[str, DetectorConfig] = {
    f"lion_{operator}_{form}": detector(form, VARIANTS[f"lion_{operator}_{form}"])
    for form in FORMS
    if form.removesuffix("_large") in AFTER  # Argoverse's head is not known
    for operator in OPERATORS
} | {
    f"lion_{operator}_small": detector("small", replace(SMALL, operator=operator)) for operator in REGISTERED
}
