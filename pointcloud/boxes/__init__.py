"""Boxes that stand upright and turn about z: corners, overlaps, suppression, points inside, transforms.

Rows are (x, y, z, dx, dy, dz, yaw[, vx, vy]): metres and radians, (x, y, z) is the centre, dx lies along the
heading, yaw turns counter-clockwise from +x and may be any number of turns. BEV is the view from above.
"""

from .corners import bev_corners, box_corners
from .inside import inside_boxes, points_in_boxes, points_per_box
from .nms import nms_bev, nms_by_class
from .overlaps import iou_3d_of_pairs, iou_bev_of_pairs, overlaps_3d, overlaps_bev, overlaps_bev_and_3d
from .transforms import (
    mirror_boxes,
    mirror_points,
    rotate_boxes,
    rotate_points,
    scale_boxes,
    scale_points,
    translate,
    wrap_angle,
)

__all__ = [
    "bev_corners",
    "box_corners",
    "inside_boxes",
    "iou_3d_of_pairs",
    "iou_bev_of_pairs",
    "mirror_boxes",
    "mirror_points",
    "nms_bev",
    "nms_by_class",
    "overlaps_3d",
    "overlaps_bev",
    "overlaps_bev_and_3d",
    "points_in_boxes",
    "points_per_box",
    "rotate_boxes",
    "rotate_points",
    "scale_boxes",
    "scale_points",
    "translate",
    "wrap_angle",
]
