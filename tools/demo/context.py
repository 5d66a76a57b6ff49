"""What a part of the demo is given, and how it shows that it is alive."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .store import PartStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """One part's run: what it was asked for, where its pictures go, what it has already reached."""

    folder: Path  # for its pictures
    settings: dict  # of this part, as its settings() gave them; a record made with others is never seen
    store: PartStore  # finished steps and checkpoints
    state: Path  # folder of all parts' stores, for a part that builds on another's results


class Progress:
    """A tqdm bar on a terminal; elsewhere (a log file, CI) one line when a step has ended."""

    def __init__(self, label: str, total: int, done: int = 0, unit: str = "step") -> None:
        self.label, self._bar = label, None
        if sys.stderr.isatty():
            from tqdm import tqdm

            size = shutil.get_terminal_size()  # tqdm itself draws nothing where a terminal says 0 x 0
            shape = {"ncols": size.columns, "nrows": size.lines}
            self._bar = tqdm(total=total, initial=done, desc=label, unit=unit, **shape)

    def advance(self, steps: int = 1) -> None:
        if self._bar is not None:
            self._bar.update(steps)

    def say(self, text: str) -> None:
        """State of the work, behind the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)

    def close(self, text: str) -> None:
        """End; ``text`` says what came out."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)
            self._bar.close()
        else:
            print(f"{self.label}: {text}", file=sys.stderr, flush=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """CPU work on one thread: small tensors gain nothing from more, and CPU seconds can be compared."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
