"""Diffusion models whose attention costs O(N): softmax pipelines of diffusers become linear in one call."""

from .handle import LinearizedHandle, load_pipeline
from .linearize import METHODS, linearize, linearized, unlinearize
from .linfusion.construct import LinFusion
from .report import Report

__all__ = [
    "METHODS",
    "LinFusion",
    "LinearizedHandle",
    "Report",
    "linearize",
    "linearized",
    "load_pipeline",
    "unlinearize",
]
