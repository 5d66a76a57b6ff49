"""Between KITTI's LiDAR (x forward, y left, z up) and its left colour camera (x right, y down, z forward).

    camera = R0_rect (Tr_velo_to_cam [lidar; 1])        pixel = P2 [camera; 1], divided by its third row

A label has the middle of an object's bottom in the camera frame and ry, its turn about y; a box has the
centre, half a height above the bottom along the LiDAR's z, and yaw = -(ry + pi / 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..boxes import wrap_angle

NEAREST = 0.1  # metres in front of the camera: corners nearer than this are drawn at it


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Calibration of one frame, float64.

    p2: (3, 4).  r0: (3, 3).  velo_to_cam: (3, 4).  size: width and height of the picture in pixels.
    """

    p2: Tensor
    r0: Tensor
    velo_to_cam: Tensor
    size: tuple[int, int]

    def _matrix(self) -> Tensor:
        """LiDAR to rectified camera, (4, 4)."""
        full = torch.eye(4, dtype=torch.float64)
        full[:3] = self.r0 @ self.velo_to_cam
        return full

    def to_camera(self, xyz: Tensor) -> Tensor:
        """(N, 3) LiDAR -> (N, 3) camera, metres, float64."""
        matrix = self._matrix()
        return xyz.double() @ matrix[:3, :3].T + matrix[:3, 3]

    def to_lidar(self, xyz: Tensor) -> Tensor:
        """(N, 3) camera -> (N, 3) LiDAR, metres, float64."""
        matrix = torch.linalg.inv(self._matrix())
        return xyz.double() @ matrix[:3, :3].T + matrix[:3, 3]

    def project(self, xyz: Tensor) -> Tensor:
        """(N, 3) camera -> (N, 2) pixels; meaningless behind the camera."""
        u, v, depth = (xyz.double() @ self.p2[:, :3].T + self.p2[:, 3]).unbind(1)
        return torch.stack((u / depth, v / depth), 1)

    def sees(self, points: Tensor) -> Tensor:
        """(N, 3 or more) LiDAR -> (N,) bool: in front of the camera and inside the picture."""
        xyz = self.to_camera(points[:, :3])
        u, v = self.project(xyz).unbind(1)
        width, height = self.size
        return (xyz[:, 2] >= 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)


def boxes_from_labels(camera: Camera, sizes: Tensor, bottoms: Tensor, ry: Tensor) -> Tensor:
    """Label columns to boxes (K, 7) float64 in the LiDAR frame.

    Args:
        sizes: (K, 3) height, width, length.  bottoms: (K, 3) camera.  ry: (K,) radians.
    """
    height, width, length = sizes.double().unbind(1)
    centre = camera.to_lidar(bottoms)
    centre[:, 2] += height / 2
    yaw = wrap_angle(-(ry.double() + math.pi / 2))
    return torch.cat((centre, torch.stack((length, width, height, yaw), 1)), 1)


def labels_from_boxes(camera: Camera, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The inverse: boxes (K, 7 or more) to sizes (K, 3), bottoms (K, 3) and ry (K,) in [-pi, pi)."""
    boxes = boxes.double()
    bottom = boxes[:, :3].clone()
    bottom[:, 2] -= boxes[:, 5] / 2
    ry = wrap_angle(-boxes[:, 6] - math.pi / 2)
    return boxes[:, [5, 4, 3]], camera.to_camera(bottom), ry


def observation_angles(bottoms: Tensor, ry: Tensor) -> Tensor:
    """KITTI's alpha, (K,) radians in [-pi, pi): ry as seen along the ray to the object."""
    return wrap_angle(ry - torch.atan2(bottoms[:, 0], bottoms[:, 2]))


def picture_boxes(camera: Camera, boxes: Tensor) -> Tensor:
    """(K, 7 or more) LiDAR -> (K, 4) left, top, right, bottom in pixels, cut at the picture's edge.

    A box that the picture does not show has no extent.
    """
    (height, width, length), bottoms, ry = _columns(camera, boxes)
    along = torch.tensor([1, 1, -1, -1, 1, 1, -1, -1], dtype=torch.float64) / 2 * length
    across = torch.tensor([1, -1, -1, 1, 1, -1, -1, 1], dtype=torch.float64) / 2 * width
    up = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1], dtype=torch.float64) * height
    cos, sin = ry.cos()[:, None], ry.sin()[:, None]
    x, z = along * cos + across * sin, across * cos - along * sin
    corners = torch.stack((x, -up, z), -1) + bottoms[:, None]
    ahead = (corners[..., 2] > NEAREST).any(1)
    corners[..., 2] = corners[..., 2].clamp(min=NEAREST)
    pixels = camera.project(corners.reshape(-1, 3)).reshape(len(boxes), 8, 2)
    edge = torch.tensor(camera.size, dtype=torch.float64) - 1
    low, high = pixels.amin(1), pixels.amax(1)
    shown = ahead & (high > 0).all(1) & (low < edge).all(1)
    rows = torch.cat((low.clamp(min=0).minimum(edge), high.clamp(min=0).minimum(edge)), 1)
    return torch.where(shown[:, None], rows, 0.0)


def _columns(camera: Camera, boxes: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    sizes, bottoms, ry = labels_from_boxes(camera, boxes)
    return tuple(column[:, None] for column in sizes.unbind(1)), bottoms, ry
