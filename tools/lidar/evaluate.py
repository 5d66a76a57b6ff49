"""A detector over a data set, and the data set's own metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import torch

from ...pointcloud import Detector
from ...pointcloud.records import Detections
from ..runs.accelerator import gather
from ..runs.log import Log
from .batches import read_frame, scored_labels


def detect_frames(
    model: Detector,
    frames: Any,
    device: torch.device,
    log: Log,
    batch_size: int = 1,
    indices: Sequence[int] | None = None,
) -> tuple[list[Detections], list[Any]]:
    """What is found in the frames, on the CPU, and what the metric must know of each one.

    Args:
        indices: of the frames; None: all.
    Raises: DataError for a frame that cannot be read or scored.
    """
    indices = range(len(frames)) if indices is None else indices
    found, labels = [], []
    was_training = model.training
    model.eval()
    log.start("detect", len(indices), 0, "frame")
    try:
        for first in range(0, len(indices), batch_size):
            batch = [read_frame(frames, i) for i in indices[first : first + batch_size]]
            labels += [scored_labels(frames, frame) for frame in batch]
            found += [to_cpu(each) for each in model.detect([frame.points.to(device) for frame in batch])]
            log.advance(len(batch))
    finally:
        log.end()
        model.train(was_training)
    return found, labels


def detect_all(run: Any) -> tuple[list[Detections], list[Any]]:
    """``detect_frames`` on a run's validation frames, shared among its processes; all of them get all."""
    accelerator, frames = run.accelerator, run.validation
    rank, world = accelerator.process_index, accelerator.num_processes
    if world > 1:
        for buffer in run.model.buffers():  # running statistics: what is saved is the first process's
            torch.distributed.broadcast(buffer, 0)
    own = range(rank, len(frames), world)
    parts = gather(
        accelerator, detect_frames(run.model, frames, run.device, run.log, run.args.batch_size, own)
    )
    found, labels = [], []
    for i in range(len(frames)):
        found.append(parts[i % world][0][i // world])
        labels.append(parts[i % world][1][i // world])
    return found, labels


def to_cpu(found: Detections) -> Detections:
    return Detections(*(part.cpu() for part in found))


def shown(metrics: Mapping[str, float]) -> str:
    """The first eight figures in a line."""
    return "  ".join(f"{name} {metrics[name]:.4g}" for name in list(metrics)[:8])


def finite_or_none(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Figures as JSON has them: what is not defined (the error of no detection) as null."""
    return {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in metrics.items()}
