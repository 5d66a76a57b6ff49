"""The space of the synthetic scenes, and the small neck and head of detectors there. Ours, data only."""

from functools import partial

from .data.shapes import CLASSES
from .heads import CenterHead, Decoding
from .necks import ResidualFpn
from .voxels import VoxelGrid

__all__ = ["CLASSES", "GRID", "HEAD", "NECK", "POINT_FEATURES"]

POINT_FEATURES = 4  # x, y, z, intensity
# 25.6 m ahead of the sensor, 80 x 80 x 32 cells
GRID = VoxelGrid(point_range=(0.0, -12.8, -2.0, 25.6, 12.8, 2.0), voxel_size=(0.32, 0.32, 0.125))
NECK = partial(ResidualFpn, blocks=(1, 1), strides=(1, 2), widths=(32, 64), ups=(1, 2), up_width=32)
HEAD = partial(CenterHead, width=32, decoding=Decoding(limit=None, nms=0.2, iou_power=0.5))
