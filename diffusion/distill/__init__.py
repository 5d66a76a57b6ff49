"""Training a swapped model against its original: the objectives of LinFusion, CLEAR and LiT.

``objective_of(name)`` gives the class; the loop around it is ``linzoo distill``. Importing this defines names
only: diffusers is imported where a model is called or noise is added.
"""

from .denoisers import Denoiser, denoiser_of
from .objective import Batch, Objective, objective_names, objective_of
from .taps import Taps
from .trained import train_only, trained_names

__all__ = [
    "Batch",
    "Denoiser",
    "Objective",
    "Taps",
    "denoiser_of",
    "objective_names",
    "objective_of",
    "train_only",
    "trained_names",
]
