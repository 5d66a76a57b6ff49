"""Heads that say where objects are on a bird's-eye map; what each is and who uses it: README.md.

A head takes a map (B, C, Y, X). ``forward`` gives a dict of raw maps, ``loss(raw, labels)`` a dict of
weighted scalar terms to add up, ``decode(raw)`` a list with the Detections of each sample.
"""

from .center_head import CenterHead
from .options import ONCE_LOSSES, SCATTERFORMER_LOSSES, WAYMO_DECODING, Decoding, LossWeights

__all__ = [
    "ONCE_LOSSES",
    "SCATTERFORMER_LOSSES",
    "WAYMO_DECODING",
    "CenterHead",
    "Decoding",
    "LossWeights",
]
