"""What stands in the synthetic scenes: road users and clutter, each a few solid boxes in its own frame.

A box has no heading. Every road user here has a front: a car's cabin sits towards the rear over a lower
bonnet, a pedestrian carries a forearm forward, a cyclist's arms reach a handlebar in front. Object frames
have the origin in the middle of the bounding box, x forward, y left, z up; metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLASSES = ("Car", "Pedestrian", "Cyclist")


@dataclass(frozen=True, kw_only=True)
class RoadUser:
    """How a class is drawn.

    size: mean length, width, height in metres.  spread: relative standard deviation of each.
    pieces: solid boxes as fractions of the size: rows (low x, y, z, high x, y, z) within -0.5 .. 0.5, whose
        union touches all six sides.
    reflectivity: of its surface, 0..1.
    """

    size: tuple[float, float, float]
    spread: float
    pieces: tuple[tuple[float, float, float, float, float, float], ...]
    reflectivity: float


ROAD_USERS = {
    "Car": RoadUser(
        size=(4.2, 1.8, 1.6),
        spread=0.06,
        pieces=(
            (-0.5, -0.5, -0.34, 0.5, 0.5, 0.04),  # body, up to the bonnet
            (-0.5, -0.5, 0.04, 0.12, 0.5, 0.12),  # shoulders and boot
            (-0.42, -0.44, 0.12, 0.05, 0.44, 0.5),  # cabin
            (-0.36, -0.5, -0.5, -0.2, 0.5, -0.34),  # rear wheels
            (0.22, -0.5, -0.5, 0.38, 0.5, -0.34),  # front wheels
        ),
        reflectivity=0.6,
    ),
    "Pedestrian": RoadUser(
        size=(0.8, 0.7, 1.75),
        spread=0.08,
        pieces=(
            (-0.5, -0.22, -0.5, 0.1, 0.22, -0.05),  # legs in stride
            (-0.3, -0.5, -0.05, 0.05, 0.5, 0.34),  # trunk
            (0.05, -0.42, 0.02, 0.5, -0.2, 0.16),  # a forearm held forward
            (-0.22, -0.2, 0.34, 0.08, 0.2, 0.5),  # head
        ),
        reflectivity=0.4,
    ),
    "Cyclist": RoadUser(
        size=(1.8, 0.65, 1.75),
        spread=0.06,
        pieces=(
            (-0.5, -0.08, -0.5, -0.16, 0.08, -0.12),  # rear wheel
            (0.16, -0.08, -0.5, 0.5, 0.08, -0.12),  # front wheel
            (-0.2, -0.12, -0.3, 0.2, 0.12, -0.04),  # frame and legs
            (-0.25, -0.36, -0.04, 0.05, 0.36, 0.32),  # trunk over the saddle
            (0.05, -0.5, 0.0, 0.26, 0.5, 0.12),  # arms and handlebar
            (0.04, -0.16, 0.32, 0.2, 0.16, 0.5),  # head
        ),
        reflectivity=0.5,
    ),
}


def draw_size(user: RoadUser, chance: np.random.Generator) -> np.ndarray:
    """Length, width and height of one individual, (3,), within three spreads of the mean."""
    return np.asarray(user.size) * (1 + user.spread * np.clip(chance.standard_normal(3), -3, 3))


def solid_pieces(user: RoadUser, size: np.ndarray) -> np.ndarray:
    """Its solid boxes in its own frame, (P, 6): low x, y, z, high x, y, z in metres."""
    return np.asarray(user.pieces) * np.tile(size, 2)
