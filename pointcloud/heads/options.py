"""Weights of losses and limits of decoding, as the published configurations set them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BOX_LOSSES = (None, "diou", "rotated")


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Of each term of a head's loss.

    heatmap, box, iou: Gaussian focal, L1 of the code, L1 of the overlap branch.
    velocity: of the last two numbers of the code, on top of ``box``.
    classes: of the focal loss on a query's classes, where the head has queries.
    box_loss: on the decoded boxes, ``"diou"`` (axis-aligned, blind to yaw: ScatterFormer's), ``"rotated"``
        (DIoU of the boxes as they stand: ours) or None.  overlap: its weight.
    """

    heatmap: float = 1.0
    box: float = 2.0
    velocity: float = 0.2
    iou: float = 1.0
    classes: float = 1.0
    box_loss: str | None = None
    overlap: float = 2.0

    def __post_init__(self) -> None:
        if self.box_loss not in BOX_LOSSES:
            raise ValueError(f"box_loss must be one of {BOX_LOSSES}, got {self.box_loss!r}")


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Which boxes are kept, in this order.

    top: best cells over all classes.  score: what a score must exceed.
    limit: low x, y, z and high x, y, z of centres, metres; None: anywhere.
    iou_power: score := score^(1 - a) * overlap^a with the predicted overlap in 0..1; one a, or one a class.
    nms: rotated overlap in BEV above which the worse box of a class goes; one, or one a class, None for a
        class that is left as it is.  pre, post: boxes of a class before and after it.
    """

    top: int = 500
    score: float = 0.1
    limit: tuple[float, float, float, float, float, float] | None = (-80.0, -80.0, -10.0, 80.0, 80.0, 10.0)
    iou_power: float | tuple[float, ...] = 0.0
    nms: float | tuple[float | None, ...] | None = 0.7
    pre: int = 4096
    post: int = 500

    def powers(self, classes: int) -> tuple[float, ...]:
        """``iou_power`` of each class."""
        return per_class("iou_power", self.iou_power, classes)

    def thresholds(self, classes: int) -> tuple[float | None, ...]:
        """``nms`` of each class."""
        return per_class("nms", self.nms, classes)


WAYMO_DECODING = Decoding(iou_power=(0.68, 0.71, 0.65), nms=(0.75, 0.6, 0.55))  # vehicle, pedestrian, cyclist
ONCE_LOSSES = LossWeights(box=1.0)
SCATTERFORMER_LOSSES = LossWeights(box_loss="diou")  # Waymo
NUSCENES_LOSSES = LossWeights(box=0.25, iou=0.5)
SCATTERFORMER_NUSCENES_LOSSES = LossWeights(box=0.25, iou=0.5, box_loss="diou", overlap=0.5)


def per_class(name: str, value: object, classes: int) -> tuple:
    """One value for every class, or what was given for each. Raises: ValueError on another number of them."""
    if not isinstance(value, Sequence):
        return (value,) * classes
    if len(value) != classes:
        raise ValueError(f"{name} must be one value or one for each of the {classes} classes, got {value}")
    return tuple(value)
