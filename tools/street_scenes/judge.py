"""A detector on frames that it has not seen: figures, and what it finds drawn over what is there."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import torch

from ...pointcloud import Detections, Detector
from ..lidar.evaluate import detect_frames, finite_or_none, to_cpu
from ..lidar.pictures import bird_eye
from ..runs.log import Log

SHOWN_SCORE = 0.3  # of the boxes that are drawn
COLOURS = 128  # of a picture that is kept


def judge(
    model: Detector, frames: Any, device: torch.device, log: Log, count: int
) -> dict[str, float | None]:
    """The data set's figures on its first ``count`` frames, None for what is not defined."""
    indices = range(min(count, len(frames)))
    found, labels = detect_frames(model, frames, device, log, batch_size=4, indices=indices)
    figures = finite_or_none(frames.score(found, labels))
    return {name: value if value is None else round(value, 4) for name, value in figures.items()}


def draw(model: Detector, frames: Any, index: int, device: torch.device) -> bytes:
    """A PNG of one frame from above, the part that the detector looks at."""
    from PIL import Image

    frame = frames[index]
    model.eval()
    (found,) = model.detect([frame.points.to(device)])
    found = to_cpu(found)
    sure = found.scores >= SHOWN_SCORE
    low_x, low_y, _, high_x, high_y, _ = model.config.grid.point_range
    picture = bird_eye(
        frame.points,
        Detections(*(part[sure] for part in found)),
        frames.classes,
        area=(low_x, low_y, high_x, high_y),
        labels=frame.labels,
        title=f"unseen scene {index}",
    )
    return png(Image.open(BytesIO(picture)).convert("RGB"))


def sheet(model: Detector, frames: Any, device: torch.device, count: int) -> bytes:
    """The first ``count`` frames side by side."""
    from PIL import Image

    parts = [Image.open(BytesIO(draw(model, frames, i, device))).convert("RGB") for i in range(count)]
    whole = Image.new("RGB", (sum(part.width for part in parts), max(part.height for part in parts)), "white")
    left = 0
    for part in parts:
        whole.paste(part, (left, 0))
        left += part.width
    return png(whole)


def png(picture: Any) -> bytes:
    """With a palette, by a method that keeps the colours of thin lines apart."""
    from PIL import Image

    buffer = BytesIO()
    picture.quantize(COLOURS, Image.Quantize.FASTOCTREE).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
