"""A folder that keeps the finished rungs of a ladder, so that a run that was stopped goes on after the last.

Of each rung: ``rung_N.png``, then ``rung_N.safetensors`` with the generator's state and what later rungs
need, both whole or not there. With the second file a rung is finished. ``run.json`` says which run it is.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .pictures import open_picture, save_picture


class Finished(NamedTuple):
    """What the store has of one rung."""

    image: Any
    states: list[Tensor]  # of the generators, after the rung
    kept: dict[str, Tensor]


class Store:
    """The rungs of one run.

    Args:
        folder: made if it is not there.
        request: what makes the run what it is, by name.
        resume: go on with the rungs that the folder has; False: begin anew, whatever it has.
        last: number of the last rung, which lies at ``output`` if that is given.
    Raises: ValueError when ``resume`` finds another run.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        request: Mapping[str, Any],
        *,
        resume: bool,
        last: int,
        output: str | os.PathLike | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.last, self.output = last, None if output is None else Path(output)
        request = {name: digest(value) for name, value in request.items()}
        before = self._read_request()
        if resume and before is not None:
            check_same(self.folder, before, request)
            return
        for path in self.folder.glob("rung_*.safetensors"):
            path.unlink()
        text = json.dumps(request, indent=1, sort_keys=True) + "\n"
        write_atomic(self.folder / "run.json", lambda path: path.write_text(text))

    def picture(self, number: int) -> Path:
        """Where the picture of a rung lies, or is to lie."""
        own = self.folder / f"rung_{number}.png"
        return self.output if number == self.last and self.output is not None else own

    def finished(self) -> list[Finished]:
        """The rungs that are done, from the first to the last without a gap."""
        from safetensors.torch import load_file

        found: list[Finished] = []
        for number in range(self.last + 1):
            tensors, picture = self._tensors(number), self.picture(number)
            if not (tensors.is_file() and picture.is_file()):
                break
            kept = load_file(tensors)
            states = [kept.pop(name) for name in sorted(kept) if name.startswith("generator.")]
            found.append(Finished(open_picture(picture), states, kept))
        return found

    def save(self, number: int, image: Any, generators: Sequence[torch.Generator], kept: Mapping) -> None:
        """Keep a rung; ``image`` None says that its picture is in its place already."""
        from safetensors.torch import save_file

        if image is not None:
            save_picture(self.picture(number), image)
        tensors = {f"generator.{i}": g.get_state().cpu() for i, g in enumerate(generators)}
        tensors |= {name: value.detach().cpu().contiguous() for name, value in kept.items()}
        write_atomic(self._tensors(number), lambda path: save_file(tensors, path))

    def _tensors(self, number: int) -> Path:
        return self.folder / f"rung_{number}.safetensors"

    def _read_request(self) -> dict[str, str] | None:
        try:
            return json.loads((self.folder / "run.json").read_text())
        except (FileNotFoundError, ValueError):
            return None


def check_same(folder: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raises: ValueError naming what differs between the stored run and this one."""
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            raise ValueError(
                f"store must hold rungs of this run, {folder} has another's: {name} was {before.get(name)}, "
                f"now {now.get(name)}. Give another folder, or resume=False to begin anew"
            )


def digest(value: Any) -> str:
    """Short text that differs when the value does: a hash of tensors and pictures, others as written."""
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(data).hexdigest()[:16]}"
    if hasattr(value, "tobytes"):
        size = getattr(value, "size", None)
        return f"{type(value).__name__} {size} {hashlib.sha256(value.tobytes()).hexdigest()[:16]}"
    if isinstance(value, Mapping):
        return json.dumps({str(name): digest(part) for name, part in value.items()}, sort_keys=True)
    if isinstance(value, (list, tuple)):
        return json.dumps([digest(part) for part in value])
    return repr(value)


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """``write`` fills a temporary file, which then gets the name: whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
