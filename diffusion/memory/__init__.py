"""Memory."""

from .blank import Blank, blank
from .inputs import denoiser_inputs

__all__ = ["Blank", "blank", "denoiser_inputs"]
