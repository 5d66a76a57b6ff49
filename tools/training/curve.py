"""The picture of a training: loss and accuracy over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw_curve(path: Path, history: Sequence[dict], title: str) -> None:
    """Loss and accuracy over the epochs: ``path``, and ``NAME.dark.png`` beside it for dark screens.

    Raises: ImportError without matplotlib.
    """
    from ..demo.pictures import chart

    epochs = [row["epoch"] + 1 for row in history]

    def draw(axes: Any, colours: dict) -> None:
        axes.xaxis.get_major_locator().set_params(integer=True)
        losses = [row["train_loss"] for row in history]
        lines = axes.plot(epochs, losses, color=colours["rala"], marker=".", label="training loss")
        if "eval_top1" in history[0]:
            right = axes.twinx()
            accuracies = [row["eval_top1"] for row in history]
            colour = colours["nala"]
            lines += right.plot(epochs, accuracies, color=colour, marker=".", label="validation, top-1 in %")
            right.tick_params(axis="y", colors=colour, labelsize=9.5)
            for side in right.spines.values():
                side.set_visible(False)
        axes.legend(handles=lines, loc="center right", frameon=False, fontsize=10)

    chart(path, draw, "epoch", "loss", title)
