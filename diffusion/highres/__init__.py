"""High resolution: pictures far beyond the size a model was trained at, rung by rung, on files of any size.

    images = highres.ladder(pipe, "a castle", height=8192, width=16384, output="castle.png", store="rungs")

``ladder`` takes any pipeline with an image-to-image form; ``sdxl_ladder`` and ``super_resolution`` are
LinFusion's SD-XL pipelines, ``clear_ladder`` is CLEAR's on FLUX. Sizes are H x W in pixels.
"""

from .ladder import clear_ladder, ladder
from .sdxl import sdxl_ladder, super_resolution
from .sdxl_rung import RungOptions
from .writers import open_writer

__all__ = ["RungOptions", "clear_ladder", "ladder", "open_writer", "sdxl_ladder", "super_resolution"]
