"""ScatterFormer (ECCV 2024, arXiv 2401.00912): linear attention over windows of any number of voxels."""

from .convert import from_official, to_official
from .model import ScatterFormer
from .variants import VARIANTS, ScatterFormerConfig

__all__ = ["VARIANTS", "ScatterFormer", "ScatterFormerConfig", "from_official", "to_official"]
