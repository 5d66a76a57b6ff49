"""Bird's-eye pictures: points by height, boxes with their headings and scores."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...pointcloud.boxes import bev_corners
from ...pointcloud.records import Detections, Labels
from ..extras import need
from ..files import write_atomic

COLOURS = ("#e4572e", "#2e86ab", "#3bb273", "#b5179e", "#f2a541", "#6c757d", "#7768ae", "#8d5b4c")
INK, GROUND = "#20242b", "#ffffff"
INCHES, DPI = 7.0, 110


def bird_eye(
    points: Tensor,
    found: Detections | None,
    classes: Sequence[str],
    *,
    area: tuple[float, float, float, float],
    labels: Labels | None = None,
    title: str = "",
) -> bytes:
    """A PNG seen from above, x to the right and y up, in metres.

    Args:
        points: (N, 3 or more).
        found: drawn in the colours of their classes, a line from the centre to the front, the score beside.
        area: low x, y and high x, y that are shown.
        labels: what is there, drawn dashed.
    """
    need("matplotlib", "pointcloud")
    from matplotlib.figure import Figure

    low_x, low_y, high_x, high_y = area
    figure = Figure(
        figsize=(INCHES, INCHES * (high_y - low_y) / (high_x - low_x) + 0.6), dpi=DPI, facecolor=GROUND
    )
    axes = figure.subplots()
    shown = points[:, :3].detach().cpu().numpy()
    shown = shown[(shown[:, 0] >= low_x) & (shown[:, 0] < high_x)]
    axes.scatter(
        shown[:, 0], shown[:, 1], c=shown[:, 2], s=0.6, cmap="Greys_r", vmin=-3, vmax=4, linewidths=0
    )
    if labels is not None:
        draw_boxes(axes, labels.boxes, [INK] * len(labels.boxes), dashed=True)
    if found is not None:
        colours = [COLOURS[int(c) % len(COLOURS)] for c in found.classes]
        draw_boxes(axes, found.boxes, colours)
        for box, score, colour in zip(found.boxes.tolist(), found.scores.tolist(), colours, strict=True):
            axes.annotate(
                f"{score:.2f}", box[:2], (4, 4), textcoords="offset points", color=colour, fontsize=6
            )
        add_legend(axes, found, classes, labels is not None)
    axes.set(xlim=(low_x, high_x), ylim=(low_y, high_y), aspect="equal", xlabel="x, m", ylabel="y, m")
    axes.set_title(title, fontsize=9, color=INK)
    axes.tick_params(labelsize=7)
    figure.tight_layout()
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def draw_boxes(axes: Any, boxes: Tensor, colours: Sequence[str], dashed: bool = False) -> None:
    """Outlines (K, 7 or 9) and a line from each centre to the middle of the front."""
    rows = boxes.detach().cpu().double()
    corners = bev_corners(rows).numpy()
    fronts = rows[:, :2].numpy() + (
        rows[:, 3:4].numpy() / 2 * np.stack([rows[:, 6].cos().numpy(), rows[:, 6].sin().numpy()], 1)
    )
    for centre, front, outline, colour in zip(rows[:, :2].numpy(), fronts, corners, colours, strict=True):
        style = {"color": colour, "lw": 0.8 if dashed else 1.3, "ls": "--" if dashed else "-"}
        axes.plot(*np.concatenate([outline, outline[:1]]).T, **style)
        axes.plot(*np.stack([centre, front]).T, **style)


def add_legend(axes: Any, found: Detections, classes: Sequence[str], labelled: bool) -> None:
    from matplotlib.lines import Line2D

    there = sorted({int(c) for c in found.classes})
    entries = [Line2D([], [], color=COLOURS[c % len(COLOURS)], label=classes[c]) for c in there]
    if labelled:
        entries.append(Line2D([], [], color=INK, ls="--", lw=0.8, label="labelled"))
    if entries:
        axes.legend(handles=entries, fontsize=7, loc="upper right")


def write_picture(path: Path, *args: Any, **words: Any) -> None:
    """``bird_eye`` into a file, whole or not at all."""
    write_atomic(path, bird_eye(*args, **words))
