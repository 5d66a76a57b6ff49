"""How good detections are, on the CPU, each metric written from its definition.

``kitti_ap`` and ``nuscenes_metrics`` follow the benchmarks; ``unofficial_waymo_ap`` does not claim to.
``synthetic_metrics`` is ours, for scenes with complete labels. All take one ``Detections`` a frame, in any
order of scores, and one object of labels a frame.
"""

from .kitti import KITTI_CLASSES, kitti_ap, kitti_difficulty
from .labels import CountedLabels, KittiLabels, NuScenesLabels, count_points
from .nuscenes import NUSCENES_CLASSES, nuscenes_metrics
from .synthetic import synthetic_metrics
from .waymo import unofficial_waymo_ap

__all__ = [
    "KITTI_CLASSES",
    "NUSCENES_CLASSES",
    "CountedLabels",
    "KittiLabels",
    "NuScenesLabels",
    "count_points",
    "kitti_ap",
    "kitti_difficulty",
    "nuscenes_metrics",
    "synthetic_metrics",
    "unofficial_waymo_ap",
]
