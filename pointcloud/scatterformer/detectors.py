"""ScatterFormer's detectors: what follows the backbone on each data set, and a small one for drawn scenes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from .. import street
from ..data.waymo import WAYMO_CLASSES
from ..detector import DetectorConfig
from ..heads import (
    SCATTERFORMER_LOSSES,
    SCATTERFORMER_NUSCENES_LOSSES,
    WAYMO_DECODING,
    CenterHead,
    TransFusionHead,
)
from ..metrics import NUSCENES_CLASSES
from ..necks import CascadeDed
from .variants import VARIANTS, ScatterFormerConfig

SMALL = ScatterFormerConfig(
    grid=street.GRID,
    window=12,
    channels_in=32,
    channels=32,
    heads=2,
    pool_heads=2,
    layers=2,
    point_features=street.POINT_FEATURES,
)


def detector(
    backbone: ScatterFormerConfig,
    classes: tuple[str, ...],
    head: Callable[..., nn.Module],
    neck: Callable[..., nn.Module] = CascadeDed,
    notes: str = "",
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
        notes=notes,
    )


DETECTORS: dict[str, DetectorConfig] = {
    "scatterformer_waymo": detector(
        VARIANTS["scatterformer_waymo"],
        WAYMO_CLASSES,
        partial(CenterHead, losses=SCATTERFORMER_LOSSES, decoding=WAYMO_DECODING),
    ),
    "scatterformer_nuscenes": detector(
        VARIANTS["scatterformer_nuscenes"],
        NUSCENES_CLASSES,
        partial(
            TransFusionHead,
            border="clamp",
            swap_axes=False,
            height="centre",
            losses=SCATTERFORMER_NUSCENES_LOSSES,
        ),
    ),
    "scatterformer_small": detector(
        SMALL,
        street.CLASSES,
        street.HEAD,
        street.NECK,
        notes="32 channels, 2 + 2 layers: ours, for the synthetic scenes",
    ),
}
