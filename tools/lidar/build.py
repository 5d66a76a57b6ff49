"""A detector from the command line's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ...pointcloud import Detector, DetectorConfig, create_detector, detector_config

OF_THE_FORM = (
    "grid",
    "channels",
    "channels_in",
    "point_features",
    "tanh",
)  # neck, head and encoder fit these


def build_detector(
    name: str,
    changes: Mapping[str, Any],
    checkpoint: str | Path | None = None,
    *,
    flag: str = "--checkpoint",
) -> Detector:
    """A detector, with random weights or those of a file.

    Args:
        changes: ``--backbone-kwargs``.
        flag: what the command calls ``checkpoint``.
    Raises: ValueError for a name, a field, a value or a file that does not fit or is not there.
    """
    try:
        config = detector_config(name)
    except ValueError as error:
        raise ValueError(f"--detector: {error}") from error
    changes = checked_changes(name, config, changes)
    try:
        config.with_backbone(**changes)
        if checkpoint is None:
            return create_detector(name, **changes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--backbone-kwargs {shown(changes)}: {error}") from error
    try:
        return create_detector(name, checkpoint=checkpoint, **changes)
    except (ValueError, OSError) as error:
        raise ValueError(f"{flag}: {error}") from error


def checked_changes(name: str, config: DetectorConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lists as tuples; every value of the type that its field has.

    Raises: ValueError for a field that the backbone lacks, or that the rest of the detector is built for.
    """
    known = [field.name for field in fields(config.backbone)]
    checked = {}
    for key, value in changes.items():
        if key not in known:
            raise ValueError(f"--backbone-kwargs: {name}'s backbone has no {key}; it has {', '.join(known)}")
        now, value = getattr(config.backbone, key), tuples(value)
        if key in OF_THE_FORM and value != now:
            raise ValueError(f"--backbone-kwargs {key} belongs to the form of {name} and stays as it is")
        if not same_type(now, value):
            kind = type(now).__name__
            raise ValueError(f"--backbone-kwargs {key} must be of type {kind}, as {now!r}, got {value!r}")
        checked[key] = value
    return checked


def same_type(now: Any, value: Any) -> bool:
    if isinstance(now, Mapping):
        return isinstance(value, Mapping)
    if isinstance(now, float):
        return isinstance(value, float | int) and not isinstance(value, bool)
    return type(value) is type(now)


def tuples(value: Any) -> Any:
    """A recipe's lists as tuples."""
    return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value


def shown(changes: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in changes.items())
