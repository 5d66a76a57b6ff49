"""linzoo: backbones whose token mixing costs O(N), on one set of shared kernels.

``import linzoo`` is light (no torch). ``import linzoo.vision`` registers the vision models with timm;
``linzoo.kernels`` holds the linear-attention ops.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
