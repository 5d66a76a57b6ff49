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

COLOURS = (  # ten, as nuScenes has classes
    "#e4572e", "#2e86ab", "#3bb273", "#b5179e", "#f2a541",
    "#6c757d", "#7768ae", "#8d5b4c", "#00bcd4", "#a2b800",
)  # fmt: skip
INK, GROUND = "#20242b", "#ffffff"
LOW, HIGH = "#bcc5d1", "#0b1f3a"  # of points, by height
HEIGHTS = 3.0  # metres above the ground that the colours span
INCHES, DPI = 7.0, 110
SMALL = 50.0  # metres across up to which lines have their full width


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
        found: drawn in the colours of their classes, a line from the centre to the thick front edge, the
            score beside.
        area: low x, y and high x, y that are shown.
        labels: what is there, drawn dashed.
    """
    need("matplotlib", "pointcloud")
    from matplotlib.figure import Figure

    low_x, low_y, high_x, high_y = area
    thin = min(max(SMALL / (high_x - low_x), 0.4), 1.0)
    inches = INCHES * (1.5 - thin / 2)
    height = inches * min(max((high_y - low_y) / (high_x - low_x), 0.25), 2.0)
    figure = Figure(figsize=(inches + 0.6, height + 0.5), dpi=DPI, facecolor=GROUND, layout="constrained")
    axes = figure.subplots()
    draw_points(figure, axes, points[:, :3].detach().cpu().numpy(), area, thin)
    if labels is not None:
        draw_boxes(axes, labels.boxes, [INK] * len(labels.boxes), thin, dashed=True)
    if found is not None:
        colours = [COLOURS[int(c) % len(COLOURS)] for c in found.classes]
        draw_boxes(axes, found.boxes, colours, thin)
        write_scores(axes, found, colours, high_y)
        add_legend(axes, found, classes, labels is not None)
    axes.set(xlim=(low_x, high_x), ylim=(low_y, high_y), aspect="equal", xlabel="x, m", ylabel="y, m")
    axes.set_title(title, fontsize=9, color=INK)
    axes.tick_params(labelsize=7)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def draw_points(
    figure: Any, axes: Any, points: np.ndarray, area: tuple[float, float, float, float], thin: float
) -> None:
    """Points (N, 3) within ``area``, the darker the higher, with a scale beside; most lie on the ground."""
    from matplotlib.colors import LinearSegmentedColormap

    inside = ((points[:, :2] >= area[:2]) & (points[:, :2] < area[2:])).all(1)
    x, y, z = points[inside].T
    ground = float(np.percentile(z, 20)) if len(z) else 0.0
    colours = LinearSegmentedColormap.from_list("height", [LOW, HIGH])
    order = np.argsort(z)  # what is high lies on top
    dots = axes.scatter(
        x[order],
        y[order],
        c=z[order],
        s=1.6 * thin,
        cmap=colours,
        vmin=ground,
        vmax=ground + HEIGHTS,
        linewidths=0,
    )
    scale = figure.colorbar(dots, ax=axes, shrink=0.5, aspect=30, pad=0.01)
    scale.set_label("z, m", fontsize=7)
    scale.ax.tick_params(labelsize=6)


def write_scores(axes: Any, found: Detections, colours: Sequence[str], high_y: float) -> None:
    """Each score above its box, or on it where that is at the picture's edge."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=1.5, foreground=GROUND)]
    tops = bev_corners(found.boxes.detach().cpu().double())[..., 1].amax(1).tolist()
    for box, top, score, colour in zip(
        found.boxes.tolist(), tops, found.scores.tolist(), colours, strict=True
    ):
        x, top = box[0], top if top < high_y else box[1]
        axes.annotate(
            f"{score:.2f}", (x, top), (0, 2), textcoords="offset points", ha="center", color=colour,
            fontsize=7, path_effects=halo, annotation_clip=True, zorder=5,
        )  # fmt: skip


def draw_boxes(axes: Any, boxes: Tensor, colours: Sequence[str], thin: float, dashed: bool = False) -> None:
    """Outlines (K, 7 or 9), their front edges thick, and a line from each centre to the front's middle."""
    rows = boxes.detach().cpu().double()
    corners = bev_corners(rows).numpy()
    ahead = np.stack([rows[:, 6].cos().numpy(), rows[:, 6].sin().numpy()], 1)
    aside = np.stack([-ahead[:, 1], ahead[:, 0]], 1) * rows[:, 4:5].numpy() / 2
    fronts = rows[:, :2].numpy() + rows[:, 3:4].numpy() / 2 * ahead
    width = thin * (0.8 if dashed else 1.3)
    for centre, front, side, outline, colour in zip(
        rows[:, :2].numpy(), fronts, aside, corners, colours, strict=True
    ):
        style = {"color": colour, "ls": "--" if dashed else "-", "zorder": 3 if dashed else 4}
        axes.plot(*np.concatenate([outline, outline[:1]]).T, lw=width, **style)
        axes.plot(*np.stack([centre, front]).T, lw=width, **style)
        axes.plot(*np.stack([front - side, front + side]).T, lw=2 * width, **style)


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
