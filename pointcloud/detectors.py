"""The detectors by name: each published form, and small ones for the synthetic scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from ..kernels.dispatch import nearest
from .data.shapes import CLASSES as SYNTHETIC_CLASSES
from .detector import Detector, DetectorConfig
from .heads import KITTI_ANCHORS, AnchorHead, CenterHead, TransFusionHead
from .heads.options import (
    ONCE_LOSSES,
    SCATTERFORMER_LOSSES,
    SCATTERFORMER_NUSCENES_LOSSES,
    WAYMO_DECODING,
    Decoding,
    LossWeights,
)
from .lion.variants import FORMS, OPERATORS, LionConfig
from .lion.variants import VARIANTS as LION
from .metrics import KITTI_CLASSES, NUSCENES_CLASSES
from .necks import CascadeDed, ResidualFpn, SecondNeck
from .scatterformer.variants import VARIANTS as SCATTERFORMER
from .scatterformer.variants import ScatterFormerConfig
from .voxels import VoxelGrid

WAYMO_CLASSES = ("Vehicle", "Pedestrian", "Cyclist")
ONCE_CLASSES = ("Car", "Bus", "Truck", "Pedestrian", "Cyclist")


def kitti_head(in_channels: int, *, classes: Sequence[str], grid: VoxelGrid, stride: int) -> AnchorHead:
    anchors = {name: KITTI_ANCHORS[name.lower()] for name in classes}
    return AnchorHead(in_channels, anchors=anchors, grid=grid, stride=stride)


# What follows LION's backbone on each data set. Waymo's intensity and elongation pass through tanh.
AFTER_LION: Mapping[str, dict[str, Any]] = {
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
}


def lion(form: str, backbone: LionConfig) -> DetectorConfig:
    """A LION detector: ``form`` is a key of ``FORMS`` whose head is known."""
    width = backbone.channels
    return DetectorConfig(
        backbone=backbone,
        vfe_widths=(width, width),
        bev_channels=2 * width,  # two cells of height are left
        bev_stride=1,
        **AFTER_LION[form.removesuffix("_large")],
    )


def scatterformer(
    backbone: ScatterFormerConfig, classes: tuple[str, ...], head: Any, neck: Any = CascadeDed
) -> DetectorConfig:
    width = backbone.channels_in
    return DetectorConfig(
        classes=classes,
        point_features=backbone.point_features,
        tanh=backbone.tanh,
        vfe_widths=(width, width),
        backbone=backbone,
        bev_channels=backbone.channels,
        bev_stride=2,
        neck=neck,
        head=head,
    )


# The synthetic scenes' space: 25.6 m ahead of the sensor, 80 x 80 x 32 cells.
STREET = VoxelGrid(point_range=(0.0, -12.8, -2.0, 25.6, 12.8, 2.0), voxel_size=(0.32, 0.32, 0.125))
SMALL_NECK = partial(ResidualFpn, blocks=(1, 1), strides=(1, 2), widths=(32, 64), ups=(1, 2), up_width=32)
SMALL_HEAD = partial(
    CenterHead,
    width=32,
    losses=LossWeights(),
    decoding=Decoding(limit=None, nms=0.2, iou_power=0.5),
)
SMALL_LION = LionConfig(
    channels=32,
    grid=STREET,
    groups=(1024, 512, 512, 256),
    notes="32 channels, shorter groups: ours, for the synthetic scenes",
)
SMALL_SCATTERFORMER = ScatterFormerConfig(
    grid=STREET,
    window=12,
    channels_in=32,
    channels=32,
    heads=2,
    pool_heads=2,
    layers=2,
    point_features=4,
)


def small_lion(operator: str) -> DetectorConfig:
    return DetectorConfig(
        classes=SYNTHETIC_CLASSES,
        point_features=4,
        vfe_widths=(32, 32),
        backbone=replace(SMALL_LION, operator=operator),
        bev_channels=64,
        bev_stride=1,
        neck=SMALL_NECK,
        head=SMALL_HEAD,
    )


DETECTORS: dict[str, DetectorConfig] = {
    **{
        f"lion_{operator}_{form}": lion(form, LION[f"lion_{operator}_{form}"])
        for form in FORMS
        if form.removesuffix("_large") in AFTER_LION  # Argoverse's head is not known
        for operator in OPERATORS
    },
    **{f"lion_{operator}_small": small_lion(operator) for operator in (*OPERATORS, "linear", "gated")},
    "scatterformer_waymo": scatterformer(
        SCATTERFORMER["scatterformer_waymo"],
        WAYMO_CLASSES,
        partial(CenterHead, losses=SCATTERFORMER_LOSSES, decoding=WAYMO_DECODING),
    ),
    "scatterformer_nuscenes": scatterformer(
        SCATTERFORMER["scatterformer_nuscenes"],
        NUSCENES_CLASSES,
        partial(
            TransFusionHead,
            border="clamp",
            swap_axes=False,
            height="centre",
            losses=SCATTERFORMER_NUSCENES_LOSSES,
        ),
    ),
    "scatterformer_small": scatterformer(SMALL_SCATTERFORMER, SYNTHETIC_CLASSES, SMALL_HEAD, neck=SMALL_NECK),
}


def list_detectors(pattern: str = "*") -> list[str]:
    """The names that match a pattern with ``*`` and ``?``, sorted."""
    return sorted(name for name in DETECTORS if fnmatch(name, pattern))


def detector_config(name: str) -> DetectorConfig:
    """Raises: ValueError for a name that is not known, with the nearest that is."""
    if name not in DETECTORS:
        close = nearest(name, list(DETECTORS))
        raise ValueError(f"detector must be one of {len(DETECTORS)} names, got {name!r}{close}")
    return DETECTORS[name]


def create_detector(name: str, *, checkpoint: str | Path | None = None, **backbone: Any) -> Detector:
    """A detector by name, with random weights or those of a file.

    Args:
        name: of ``list_detectors()``.
        checkpoint: a file of ours (``.safetensors``, or ``last.pth.tar`` of a training) or the authors'
            ``.pth``.
        backbone: fields of the backbone's config to replace (``padding="none"``, ``drop_path=0.1``, ...).
    Raises: ValueError for an unknown name, or a checkpoint that does not fit; TypeError for a field that the
        backbone's config does not have.
    """
    detector = Detector(detector_config(name).with_backbone(**backbone))
    if checkpoint is not None:
        from .checkpoints import load_checkpoint

        load_checkpoint(detector, checkpoint)
    return detector
