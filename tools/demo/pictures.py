"""Drawing: charts for light and dark screens, weight maps as pictures. Matplotlib, from ``linzoo[data]``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..extras import need
from ..files import write_atomic

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes


class Colours(dict):
    """A colour for each mixer; one that is not listed gets the next spare one, the same on every picture."""

    SPARE = ("#0f766e", "#7c3aed", "#be123c", "#a16207")

    def __missing__(self, mixer: str) -> str:
        self[mixer] = self.SPARE[len(self) % len(self.SPARE)]
        return self[mixer]


# Colour-blind safe (Okabe and Ito), one colour a mixer on every picture; the dark version lightens them.
COLOURS = Colours(
    rala="#0072b2", mala="#009e73", nala="#d55e00", l2="#b0709a", inline="#c08a00", lightnet="#8a9a1b",
    softmax="#6b7280",
)  # fmt: skip
DARK = Colours(
    rala="#56b4e9", mala="#3fd3ab", nala="#ff9a4d", l2="#e3a6cd", inline="#f0c04a", lightnet="#cdd95a",
    softmax="#b6bec9",
)  # fmt: skip
THEMES = {
    ".png": {"ink": "#1c2024", "soft": "#5c646d", "grid": "#d9dee3", "back": "#ffffff", "colours": COLOURS},
    ".dark.png": {"ink": "#e6e9ec", "soft": "#9aa4ae", "grid": "#343b42", "back": "#14171a", "colours": DARK},
}
INCHES = (5.2, 3.7)  # as wide as a phone's page at 11 points: nothing becomes too small to read


def chart(path: Path, draw: Callable[[Axes, dict], None], xlabel: str, ylabel: str, title: str) -> None:
    """``draw(axes, colours)`` on a light and on a dark background: ``path``, ``NAME.dark.png`` beside it."""
    need("matplotlib", "data")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for suffix, theme in THEMES.items():
        figure = Figure(figsize=INCHES, dpi=200, facecolor=theme["back"], layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot(facecolor=theme["back"])
        draw(axes, theme["colours"])
        axes.set_xlabel(xlabel, color=theme["soft"], fontsize=11)
        axes.set_ylabel(ylabel, color=theme["soft"], fontsize=11)
        axes.set_title(title, color=theme["ink"], fontsize=12, loc="left")
        axes.tick_params(colors=theme["soft"], which="both", labelsize=9.5)
        axes.grid(True, color=theme["grid"], linewidth=0.7)
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(theme["soft"])
        legend = axes.get_legend()
        if legend is not None:
            for text in legend.get_texts():
                text.set_color(theme["ink"])
        write_atomic(path.with_suffix(suffix), lambda file, figure=figure: figure.savefig(file, format="png"))


def picture(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W) or (H, W, 3) uint8 pixels as PNG."""
    from PIL import Image

    write_atomic(path, lambda file: Image.fromarray(pixels).save(file, format="PNG", optimize=True))


def heat(values: np.ndarray, limit: float, side: int) -> np.ndarray:
    """Map of weights to colours, blue below zero, red above: (h, w) -> (side, side, 3) uint8.

    Args:
        limit: the magnitude that gets the last colour, larger ones too; > 0.
        side: pixels; token borders stay sharp.
    """
    import numpy as np
    from PIL import Image

    matplotlib = need("matplotlib", "data")
    scaled = np.clip(values / limit, -1, 1)
    colours = matplotlib.colormaps["RdBu_r"]((scaled + 1) / 2)
    image = Image.fromarray((255 * colours[..., :3]).round().astype("uint8"))
    return np.asarray(image.resize((side, side), Image.Resampling.NEAREST))


def mark(pixels: np.ndarray, row: float, column: float, radius: int) -> np.ndarray:
    """A copy with a ring, white within black, around (row, column) in pixels."""
    import numpy as np

    rows, columns = np.ogrid[: pixels.shape[0], : pixels.shape[1]]
    distance = np.hypot(rows - row, columns - column)
    out = pixels.copy()
    out[abs(distance - radius) < 3.2] = 0
    out[abs(distance - radius) < 1.6] = 255
    return out
