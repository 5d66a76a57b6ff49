"""What every ladder does between its rungs: keep them, show them, go on after the last one kept."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .pictures import save_picture
from .store import Finished, Store
from .writers import check_suffix

Kept = dict[str, Tensor]  # what later rungs need beside the picture
OnRungEnd = Callable[[Any, int, Any], object]  # pipeline, number, PIL image


@dataclass(frozen=True, slots=True)
class Step:
    """One picture of a ladder: its size in pixels and, beyond the first, the strength it is redrawn with."""

    height: int
    width: int
    strength: float | None = None


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where the pictures of a ladder go.

    Args:
        store: folder that keeps each finished rung. None: nothing is kept.
        resume: go on after the last rung that the store has.
        output: .png, .tif or .tiff file of the last picture.
        callback_on_rung_end: called with (pipe, number, PIL image) after each rung, 0 for the first.
    """

    store: str | os.PathLike | None = None
    resume: bool = True
    output: str | os.PathLike | None = None
    callback_on_rung_end: OnRungEnd | None = None

    def __post_init__(self) -> None:
        if self.output is not None:
            check_suffix(self.output, "output")
            Path(self.output).parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=Path(self.output).parent).close()  # OSError now, not after hours


# number, step, the picture below (None: there is none), kept, file to stream to or None -> picture, kept
Draw = Callable[[int, Step, Any, Kept, Path | None], tuple[Any, Kept]]


@torch.no_grad()
def climb(
    pipe: Any, steps: Sequence[Step], draw: Draw, generator: Any, keeping: Keeping, request: Mapping[str, Any]
) -> list[Any]:
    """Draw the pictures in turn. Returns: PIL images of all rungs, the smallest first."""
    last = len(steps) - 1
    generators = list_of(generator)
    store, done = None, []
    if keeping.store is not None:
        words = {"resume": keeping.resume, "last": last, "output": keeping.output}
        request = {"sizes": [(s.height, s.width, s.strength) for s in steps], **request}
        store = Store(keeping.store, request, **words)
        done = store.finished()
    images = [entry.image for entry in done]
    kept = go_on(done, generators)
    for number in range(len(done), len(steps)):
        place = picture_place(number, last, store, keeping)
        with described(pipe, steps[number]):
            below = images[-1] if images else None
            image, kept = draw(number, steps[number], below, kept, place)
        streamed = place is not None and getattr(image, "filename", None) == str(place)
        if store is not None:
            store.save(number, None if streamed else image, generators, kept)
        elif place is not None and not streamed:
            save_picture(place, image)
        images.append(image)
        if keeping.callback_on_rung_end is not None:
            keeping.callback_on_rung_end(pipe, number, image)
    return images


def picture_place(number: int, last: int, store: Store | None, keeping: Keeping) -> Path | None:
    if store is not None:
        return store.picture(number)
    return Path(keeping.output) if number == last and keeping.output is not None else None


def list_of(generator: Any) -> list[torch.Generator]:
    if generator is None:
        return []
    return list(generator) if isinstance(generator, (list, tuple)) else [generator]


def go_on(done: Sequence[Finished], generators: Sequence[torch.Generator]) -> Kept:
    """Puts the generators where they were after the last finished rung. Returns: what was kept."""
    if not done:
        return {}
    for generator, state in zip(generators, done[-1].states, strict=True):
        generator.set_state(state)
    return done[-1].kept


@contextmanager
def described(pipe: Any, step: Step) -> Iterator[None]:
    """Within: the pipeline's progress bar says the size, unless its user has given it a text."""
    before = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(**{"desc": f"{step.height} x {step.width}", **before})
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**before)
