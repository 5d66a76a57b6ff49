"""Rays against solid boxes and a ground plane: the points that a spinning LiDAR would measure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GROUND = -1  # owner of a point on the ground
NOTHING = -2  # a ray that comes back from nowhere


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """A LiDAR at the origin, x forward, z up.

    height: metres above the ground.  beams: rays one above the other between ``lowest`` and ``highest``
    degrees.  azimuths: turns of the head over ``sector`` degrees, symmetric about x.  reach: metres.
    noise: standard deviation of a range, metres.  dropout: share of the rays lost at the reach's end; near
    the sensor none is lost.
    """

    height: float = 1.73
    beams: int = 48
    lowest: float = -24.0
    highest: float = 4.0
    azimuths: int = 512
    sector: float = 120.0
    reach: float = 60.0
    noise: float = 0.015
    dropout: float = 0.3

    def angles(self) -> tuple[np.ndarray, np.ndarray]:
        """Elevations of the beams (beams,) and rising azimuths (azimuths,), radians."""
        turn = (np.arange(self.azimuths) + 0.5) / self.azimuths * self.sector - self.sector / 2
        return np.radians(np.linspace(self.lowest, self.highest, self.beams)), np.radians(turn)

    def directions(self) -> np.ndarray:
        """Unit vectors of all rays, (beams, azimuths, 3)."""
        up, turn = self.angles()
        up = up[:, None]
        rays = (np.cos(up) * np.cos(turn), np.cos(up) * np.sin(turn), np.sin(up) * np.ones_like(turn))
        return np.stack(rays, -1)


@dataclass(frozen=True, kw_only=True)
class Solids:
    """Solid boxes, each turned about the vertical and moved.

    low, high: (P, 3) corners in the box's own frame.  centre: (P, 3) where that frame's origin stands.
    yaw: (P,) radians.  owner: (P,) int, which object the box is a part of, from 0.
    reflectivity: (P,) 0..1.
    """

    low: np.ndarray
    high: np.ndarray
    centre: np.ndarray
    yaw: np.ndarray
    owner: np.ndarray
    reflectivity: np.ndarray


def cast(sensor: Sensor, solids: Solids, chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The first thing that each ray meets.

    Returns: points (N, 4) float32: x, y, z in metres and an intensity in 0..1; owner (N,) int of each:
        ``GROUND`` or the object. Rays that meet nothing within reach, or are lost, give no point.
    """
    directions = sensor.directions()
    distance, owner, shine = _ground(sensor, directions)
    for piece in range(len(solids.owner)):
        for columns in _columns(sensor, solids, piece):
            entry, facing = _entry(solids, piece, directions[:, columns])
            closer = entry < distance[:, columns]
            distance[:, columns][closer] = entry[closer]
            owner[:, columns][closer] = solids.owner[piece]
            shine[:, columns][closer] = solids.reflectivity[piece] * facing[closer]
    lost = chance.random(distance.shape) < sensor.dropout * (distance / sensor.reach) ** 2
    kept = (owner != NOTHING) & ~lost
    measured = distance[kept] + sensor.noise * chance.standard_normal(kept.sum())
    shine = (shine[kept] * (1 + 0.1 * chance.standard_normal(kept.sum()))).clip(0, 1)
    points = np.concatenate([directions[kept] * measured[:, None], shine[:, None]], 1)
    return points.astype(np.float32), owner[kept]


def _ground(sensor: Sensor, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance, owner and reflected share of each ray (beams, azimuths) in an empty plain."""
    rise = directions[..., 2]
    distance = np.where(rise < 0, -sensor.height / np.minimum(rise, -1e-9), np.inf)
    owner = np.where(distance < sensor.reach, GROUND, NOTHING)
    return np.minimum(distance, sensor.reach), owner, 0.3 * np.abs(rise)


def _columns(sensor: Sensor, solids: Solids, piece: int) -> list[slice]:
    """The azimuths at which a box can be met: one run, or two for a box behind the sensor."""
    half = np.maximum(np.abs(solids.low[piece]), np.abs(solids.high[piece]))
    x, y, _ = solids.centre[piece]
    away, radius = np.hypot(x, y), np.hypot(half[0], half[1])
    if away <= radius:
        return [slice(None)]
    middle, spread = np.arctan2(y, x), np.arcsin(radius / away)
    _, turn = sensor.angles()
    runs = []
    for around in (-2 * np.pi, 0.0, 2 * np.pi):
        edges = middle + around - spread, middle + around + spread
        first, last = np.searchsorted(turn, edges)
        if first < last:
            runs.append(slice(first, last))
    return runs


def _entry(solids: Solids, piece: int, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays from the origin enter a box, metres, inf for a miss, and the cosine to the side there."""
    cos, sin = np.cos(solids.yaw[piece]), np.sin(solids.yaw[piece])
    x, y, z = directions[..., 0], directions[..., 1], directions[..., 2]
    own = np.stack([x * cos + y * sin, y * cos - x * sin, z], -1)
    cx, cy, cz = solids.centre[piece]
    start = -np.array([cx * cos + cy * sin, cy * cos - cx * sin, cz])  # the sensor in the box's frame
    step = np.where(np.abs(own) < 1e-12, 1e-12, own)
    one, other = (solids.low[piece] - start) / step, (solids.high[piece] - start) / step
    enter, leave = np.minimum(one, other), np.maximum(one, other)
    side = enter.argmax(-1)
    entry, exit_ = enter.max(-1), leave.min(-1)
    facing = np.abs(np.take_along_axis(own, side[..., None], -1))[..., 0]
    return np.where((entry <= exit_) & (entry > 0), entry, np.inf), facing
