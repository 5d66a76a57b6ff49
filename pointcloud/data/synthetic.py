"""Street scenes that are drawn, not recorded: road users, buildings and poles before a ray-cast LiDAR.

They exist so that everything runs and learns with no download. A figure measured on them says nothing about
real traffic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..metrics import CountedLabels, synthetic_metrics
from ..records import Detections, Frame, Labels
from .raycast import Sensor, Solids, cast
from .shapes import CLASSES, ROAD_USERS, draw_size, solid_pieces

SPLITS = {"train": 0, "val": 1, "test": 2}
OVERLAPS = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}  # KITTI's


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """What a scene holds.

    area: low x, y and high x, y in metres within which objects stand.  counts: fewest and most of each class.
    clutter: fewest and most buildings and poles.  min_points: an object with fewer is not labelled.
    """

    area: tuple[float, float, float, float] = (2.0, -12.0, 25.0, 12.0)
    counts: tuple[tuple[int, int], ...] = ((2, 5), (1, 3), (1, 3))
    clutter: tuple[int, int] = (2, 5)
    min_points: int = 5
    sensor: Sensor = field(default_factory=Sensor)

    def __post_init__(self) -> None:
        if len(self.counts) != len(CLASSES) or any(not 0 <= low <= high for low, high in self.counts):
            raise ValueError(f"counts must be (fewest, most) for each of {CLASSES}, got {self.counts}")
        if not (self.area[0] < self.area[2] and self.area[1] < self.area[3]):
            raise ValueError(f"area must be low x, y below high x, y in metres, got {self.area}")


class SyntheticScenes:
    """Scenes 0 .. length - 1 of one split; the same index always gives the same scene.

    Args:
        split: "train", "val" or "test", which share no scene.
        length: scenes.
        seed: another seed, another world.
        options: what scenes hold.
    A scene is a ``Frame``: points x, y, z, intensity; labels of the objects that were hit often enough; info
    with ``num_points`` (K,), the points on each object.
    """

    classes = CLASSES
    point_features = 4

    def __init__(
        self, split: str = "train", length: int = 1000, seed: int = 0, options: SceneOptions | None = None
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {tuple(SPLITS)}, got {split!r}")
        if length < 1:
            raise ValueError(f"length must be at least 1 scene, got {length}")
        self.split, self.length, self.seed = split, length, seed
        self.options = options or SceneOptions()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Frame:
        if not 0 <= index < self.length:
            raise IndexError(f"index must be in 0 .. {self.length - 1}, got {index}")
        chance = np.random.default_rng([self.seed, SPLITS[self.split], index])
        return draw_scene(self.options, chance, f"{self.split}-{self.seed}-{index:06d}")

    def labelled_classes(self, index: int) -> set[int]:
        """Indices of the classes that are labelled in a scene, which is drawn for it."""
        return set(self[index].labels.classes.tolist())

    def metric_labels(self, frame: Frame) -> CountedLabels:
        """What ``score`` must know of a frame."""
        return CountedLabels(
            boxes=frame.labels.boxes, classes=frame.labels.classes, num_points=frame.info["num_points"]
        )

    def score(self, detections: Sequence[Detections], labels: Sequence[CountedLabels]) -> dict[str, float]:
        """AP at 40 recall positions in 3D and BEV, and errors of centres and headings.

        ``score`` is the mean over classes of the 3D AP of all labelled objects. Names are
        ``<class>_<figure>`` for all labelled objects and ``<class>_ap_3d_easy``, ``_moderate`` for those
        with many points.
        """
        found = synthetic_metrics(detections, labels, classes=self.classes, iou=OVERLAPS)
        figures = {"score": found["mean"]["hard"]["ap_3d"]}
        for name in (*self.classes, "mean"):
            rows = found["mean"] if name == "mean" else found["classes"][name]
            figures |= {f"{name}_{key}": float(value) for key, value in rows["hard"].items()}
            figures |= {f"{name}_ap_3d_{level}": rows[level]["ap_3d"] for level in ("easy", "moderate")}
        return figures


def draw_scene(options: SceneOptions, chance: np.random.Generator, name: str) -> Frame:
    """One scene, all of whose chance comes from ``chance``."""
    boxes, classes = _place_road_users(options, chance)
    solids = _solids(options, boxes, classes, chance)
    points, owner = cast(options.sensor, solids, chance)
    hits = np.bincount(owner[(owner >= 0) & (owner < len(boxes))], minlength=len(boxes))
    seen = hits >= options.min_points
    labels = Labels(
        torch.from_numpy(boxes[seen].astype(np.float32)), torch.from_numpy(classes[seen].astype(np.int64))
    )
    order = chance.permutation(len(points))  # no network may learn the order of the beams
    info = {"num_points": torch.from_numpy(hits[seen].astype(np.int64))}
    return Frame(points=torch.from_numpy(points[order]), labels=labels, name=name, info=info)


def _place_road_users(options: SceneOptions, chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (K, 7) that stand on the ground and keep their distance, and their classes (K,)."""
    boxes, classes = [], []
    for index, (fewest, most) in enumerate(options.counts):
        for _ in range(chance.integers(fewest, most + 1)):
            size = draw_size(ROAD_USERS[CLASSES[index]], chance)
            spot = _free_spot(options, boxes, math.hypot(size[0], size[1]) / 2, chance)
            if spot is None:
                continue
            height = size[2] / 2 - options.sensor.height
            boxes.append(np.array([*spot, height, *size, chance.uniform(-math.pi, math.pi)]))
            classes.append(index)
    return np.array(boxes).reshape(-1, 7), np.array(classes, dtype=np.int64)


def _free_spot(options: SceneOptions, boxes: list, radius: float, chance: np.random.Generator):
    """x, y at which a circle of ``radius`` touches no other object, None after 20 tries."""
    low_x, low_y, high_x, high_y = options.area
    half_sector = math.radians(options.sensor.sector) / 2
    for _ in range(20):
        spot = np.array([chance.uniform(low_x, high_x), chance.uniform(low_y, high_y)])
        in_view = abs(math.atan2(spot[1], spot[0])) < half_sector and np.hypot(*spot) > radius + 3
        apart = all(
            np.hypot(*(spot - box[:2])) > radius + math.hypot(box[3], box[4]) / 2 + 0.3 for box in boxes
        )
        if in_view and apart:
            return spot
    return None


def _solids(
    options: SceneOptions, boxes: np.ndarray, classes: np.ndarray, chance: np.random.Generator
) -> Solids:
    """Every piece of every road user, then the clutter, whose owners follow the road users'."""
    low, high, centre, yaw, owner, shine = [], [], [], [], [], []
    for index, (box, class_) in enumerate(zip(boxes, classes, strict=True)):
        user = ROAD_USERS[CLASSES[class_]]
        pieces = solid_pieces(user, box[3:6])
        brightness = user.reflectivity * chance.uniform(0.6, 1.4)
        low.append(pieces[:, :3])
        high.append(pieces[:, 3:])
        centre.append(np.tile(box[:3], (len(pieces), 1)))
        yaw.append(np.full(len(pieces), box[6]))
        owner.append(np.full(len(pieces), index))
        shine.append(np.full(len(pieces), brightness))
    for index, (size, spot, turn) in enumerate(_clutter(options, boxes, chance)):
        low.append(-size[None] / 2)
        high.append(size[None] / 2)
        centre.append(np.array([[*spot, size[2] / 2 - options.sensor.height]]))
        yaw.append(np.array([turn]))
        owner.append(np.array([len(boxes) + index]))
        shine.append(np.array([chance.uniform(0.1, 0.5)]))
    empty = (np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0, int), np.zeros(0))
    columns = [low, high, centre, yaw, owner, shine]
    parts = [np.concatenate([none, *column]) for none, column in zip(empty, columns, strict=True)]
    names = ("low", "high", "centre", "yaw", "owner", "reflectivity")
    return Solids(**dict(zip(names, parts, strict=True)))


def _clutter(options: SceneOptions, boxes: np.ndarray, chance: np.random.Generator) -> list:
    """Poles between the road users, walls behind and beside the area: (size, spot, yaw) each."""
    low_x, low_y, high_x, high_y = options.area
    things = []
    for _ in range(chance.integers(options.clutter[0], options.clutter[1] + 1)):
        if chance.random() < 0.6:
            size = (
                np.array([0.2, 0.2, 1]) * chance.uniform(0.7, 1.5) * np.array([1, 1, chance.uniform(1.5, 4)])
            )
            spot = _free_spot(options, list(boxes), 0.3, chance)
            if spot is not None:
                things.append((size, spot, chance.uniform(-math.pi, math.pi)))
        else:
            size = np.array([chance.uniform(4, 10), 0.5, chance.uniform(2, 5)])
            side = chance.choice(3)
            spot = (
                (chance.uniform(low_x, high_x), high_y + 2),
                (chance.uniform(low_x, high_x), low_y - 2),
                (high_x + 2, chance.uniform(low_y, high_y)),
            )[side]
            things.append((size, np.array(spot), (0.0, 0.0, math.pi / 2)[side]))
    return things
