"""Convolutions between the bird's-eye map and the head; the authors' parameter names (``backbone_2d.``).

A neck takes a map (B, ``in_channels``, Y, X) and returns one of ``out_channels``, at ``out_stride`` times the
cell size of what it was given.
"""

from .cascade_ded import CascadeDed
from .residual_fpn import ResidualFpn
from .second import SecondNeck

__all__ = ["CascadeDed", "ResidualFpn", "SecondNeck"]
