"""A frame, changed by chance: objects pasted in, mirrored, turned, scaled and moved as a whole.

Pasting comes first, as in OpenPCDet: pasted objects then turn and move with the street they were put in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..boxes import (
    mirror_boxes,
    mirror_points,
    rotate_boxes,
    rotate_points,
    scale_boxes,
    scale_points,
    translate,
    wrap_angle,
)
from ..records import Frame, Labels
from .paste import PasteDatabase, paste_objects


@dataclass(frozen=True, kw_only=True)
class AugmentOptions:
    """What may happen to a frame.

    flip_x, flip_y: mirrored at the x axis (y changes sign), at the y axis (x does), each every other time.
    rotation: turned about z by up to so many radians either way, evenly.
    scale: lowest and highest factor of all lengths (and velocities), evenly.
    translation: deviation of a normal move along x, y and z, metres.
    paste: for each class, up to how many objects of it a frame is filled.
    """

    flip_x: bool = False
    flip_y: bool = False
    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    translation: float = 0.0
    paste: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 <= self.rotation < math.inf:
            raise ValueError(f"rotation must be at least 0 radians, got {self.rotation}")
        if not 0 < low <= high < math.inf:
            raise ValueError(f"scale must be (lowest, highest) factor above 0, got {self.scale}")
        if not 0 <= self.translation < math.inf:
            raise ValueError(f"translation must be at least 0 metres, got {self.translation}")
        wrong = {name: count for name, count in self.paste.items() if not _is_count(count)}
        if wrong:
            raise ValueError(f"paste must give each class a whole number from 0, got {wrong}")


def _is_count(count: object) -> bool:
    return isinstance(count, int) and not isinstance(count, bool) and count >= 0


def augment(
    frame: Frame, options: AugmentOptions, chance: np.random.Generator, paste: PasteDatabase | None
) -> Frame:
    """The frame changed by ``options``, its points shuffled; ``frame`` itself is left as it is.

    Args:
        chance: all that is random; its first draws do not depend on the frame or on the options.
        paste: where pasted objects come from; None: none are pasted.
    Returns: a frame with an empty ``info``, whose facts would be of the labels before. Yaws are in
        [-pi, pi).
    """
    flips, (turn, size), move = chance.random(2) < 0.5, chance.random(2), chance.standard_normal(3)
    points, labels = frame.points, frame.labels
    if paste is not None and options.paste:
        points, labels = paste_objects(frame, paste, options.paste, chance)
    boxes = labels.boxes
    if options.flip_x and flips[0]:
        points, boxes = mirror_points(points, "y"), mirror_boxes(boxes, "y")
    if options.flip_y and flips[1]:
        points, boxes = mirror_points(points, "x"), mirror_boxes(boxes, "x")
    points, boxes = _moved(points, boxes, options, (2 * turn - 1) * options.rotation, size, move)
    boxes = boxes.clone()
    boxes[:, 6] = wrap_angle(boxes[:, 6])
    order = torch.from_numpy(chance.permutation(len(points)))
    return Frame(points=points[order], labels=Labels(boxes, labels.classes), name=frame.name)


def _moved(
    points: Tensor, boxes: Tensor, options: AugmentOptions, angle: float, size: float, move: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Turned by ``angle`` radians, scaled (``size`` 0: lowest, 1: highest factor), moved by deviations."""
    if angle:
        points, boxes = rotate_points(points, float(angle)), rotate_boxes(boxes, float(angle))
    low, high = options.scale
    factor = float(low + size * (high - low))
    if factor != 1:
        points, boxes = scale_points(points, factor), scale_boxes(boxes, factor)
    if options.translation:
        offset = torch.from_numpy(move * options.translation)
        points, boxes = translate(points, offset), translate(boxes, offset)
    return points, boxes
