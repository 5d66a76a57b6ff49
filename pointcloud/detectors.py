"""The detectors by name: each family's published forms, and small ones for the synthetic scenes."""

from __future__ import annotations

from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

from ..kernels.dispatch import nearest
from .detector import Detector, DetectorConfig

FAMILIES = ("lion", "scatterformer")  # each has DETECTORS in its ``detectors.py``

DETECTORS: dict[str, DetectorConfig] = {
    name: config
    for family in FAMILIES
    for name, config in import_module(f".{family}.detectors", __package__).DETECTORS.items()
}


def list_detectors(pattern: str = "*") -> list[str]:
    """The names that match a pattern with ``*`` and ``?``, sorted."""
    return sorted(name for name in DETECTORS if fnmatch(name, pattern))


def detector_config(name: str) -> DetectorConfig:
    """Raises: ValueError for a name that is not known, with the nearest that is."""
    if name not in DETECTORS:
        close = nearest(name, list(DETECTORS))
        raise ValueError(f"detector must be one of {len(DETECTORS)} names, got {name!r}{close}")
    return DETECTORS[name]


def create_detector(name: str, *, checkpoint: str | Path | None = None, **backbone: Any) -> Detector:
    """A detector by name, with random weights or those of a file.

    Args:
        name: of ``list_detectors()``.
        checkpoint: a file of ours (``.safetensors``, or ``last.pth.tar`` of a training) or the authors'
            ``.pth``.
        backbone: fields of the backbone's config to replace (``padding="none"``, ``drop_path=0.1``, ...).
    Raises: ValueError for an unknown name, or a checkpoint that does not fit; TypeError for a field that the
        backbone's config does not have.
    """
    detector = Detector(detector_config(name).with_backbone(**backbone))
    if checkpoint is not None:
        from .checkpoints import load_checkpoint

        load_checkpoint(detector, checkpoint)
    return detector
