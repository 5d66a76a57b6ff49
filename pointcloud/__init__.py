"""LiDAR detectors whose token mixing costs O(N): ScatterFormer and LION, with no extension to compile."""

from .detector import Detector, DetectorConfig
from .detectors import create_detector, detector_config, list_detectors
from .records import Detections, Frame, Labels
from .voxels import VoxelGrid, Voxels

__all__ = [
    "Detections",
    "Detector",
    "DetectorConfig",
    "Frame",
    "Labels",
    "VoxelGrid",
    "Voxels",
    "create_detector",
    "detector_config",
    "list_detectors",
]
