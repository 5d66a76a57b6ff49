"""Heads that say where objects are on a bird's-eye map; what each is and who uses it: README.md.

A head takes a map (B, C, Y, X). ``forward`` gives a dict of raw maps, ``loss(raw, labels)`` a dict of
weighted scalar terms to add up, ``decode(raw)`` a list with the Detections of each sample.
"""

from .anchor_head import KITTI_DECODING, AnchorHead, AnchorLossWeights
from .anchors import KITTI_ANCHORS, Anchor
from .center_head import CenterHead
from .options import (
    NUSCENES_LOSSES,
    ONCE_LOSSES,
    SCATTERFORMER_LOSSES,
    SCATTERFORMER_NUSCENES_LOSSES,
    WAYMO_DECODING,
    Decoding,
    LossWeights,
)
from .transfusion_head import TransFusionHead, nuscenes_decoding

__all__ = [
    "KITTI_ANCHORS",
    "KITTI_DECODING",
    "NUSCENES_LOSSES",
    "ONCE_LOSSES",
    "SCATTERFORMER_LOSSES",
    "SCATTERFORMER_NUSCENES_LOSSES",
    "WAYMO_DECODING",
    "Anchor",
    "AnchorHead",
    "AnchorLossWeights",
    "CenterHead",
    "Decoding",
    "LossWeights",
    "TransFusionHead",
    "nuscenes_decoding",
]
