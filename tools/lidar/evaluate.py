"""A detector over a data set, and the data set's own metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...pointcloud import Detector
from ...pointcloud.records import Detections
from ..runs.log import Log


def detect_frames(
    model: Detector, frames: Any, device: torch.device, log: Log, batch_size: int = 1
) -> tuple[list[Detections], list[Any]]:
    """What is found in every frame, on the CPU, and what the metric must know of each frame."""
    found, labels = [], []
    was_training = model.training
    model.eval()
    log.start("detect", len(frames), 0, "frame")
    try:
        for first in range(0, len(frames), batch_size):
            batch = [frames[i] for i in range(first, min(first + batch_size, len(frames)))]
            found += [to_cpu(each) for each in model.detect([frame.points.to(device) for frame in batch])]
            labels += [frames.metric_labels(frame) for frame in batch]
            log.advance(len(batch))
    finally:
        log.end()
        model.train(was_training)
    return found, labels


def evaluate(
    model: Detector, frames: Any, device: torch.device, log: Log, batch_size: int = 1
) -> dict[str, float]:
    """The data set's figures; the headline stands under ``score``."""
    found, labels = detect_frames(model, frames, device, log, batch_size)
    metrics = frames.score(found, labels)
    log.say(f"Test: [{len(frames)} frames]  {shown(metrics)}")
    return metrics


def to_cpu(found: Detections) -> Detections:
    return Detections(*(part.cpu() for part in found))


def shown(metrics: dict[str, float], names: Sequence[str] = ()) -> str:
    """Figures in a line: those of ``names``, else the first eight."""
    chosen = names or list(metrics)[:8]
    return "  ".join(f"{name} {metrics[name]:.4g}" for name in chosen)
