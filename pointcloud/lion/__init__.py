"""LION: linear group recurrences over the voxels of a LiDAR scene, arXiv 2407.18232."""

from .backbone import LionBackbone
from .block import LionBlock
from .convert import from_official, load_official, to_official
from .layer import LionLayer
from .merge import Merge, expand
from .position import PositionEmbedding
from .variants import FORMS, PUBLISHED, VARIANTS, LionConfig

__all__ = [
    "FORMS",
    "PUBLISHED",
    "VARIANTS",
    "LionBackbone",
    "LionBlock",
    "LionConfig",
    "LionLayer",
    "Merge",
    "PositionEmbedding",
    "expand",
    "from_official",
    "load_official",
    "to_official",
]
