"""What a parallel module knows: the link, its name, its resolution, and the bands of the running call."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NoReturn

from torch import nn

from .bands import Bands
from .link import Link, Sender

PLACE = "_parallel"  # plain attribute of every module that parallelize changed, and of the model


class Call:
    """The bands of the model call that is running, by resolution; shared by all modules of one model."""

    def __init__(self, link: Link, rows: tuple[int, ...] | None) -> None:
        self.link = link
        self.rows = rows
        self.count = 0
        self.levels: list[Bands] = []  # empty between calls
        self.last: tuple[int, int] | None = None

    def __deepcopy__(self, memo: dict) -> NoReturn:
        raise TypeError("a parallel model must not be copied: handle.close() first, then copy")

    def begin(self, bands: Bands, levels: int) -> None:
        self.count += 1
        self.last = bands.of(self.link.rank)
        self.levels = [bands]
        for _ in range(levels):
            self.levels.append(self.levels[-1].halved())

    def end(self) -> None:
        self.levels = []


@dataclass(frozen=True, slots=True)
class Place:
    """Where one module stands."""

    call: Call
    name: str
    level: int = 0  # how often the model has halved the rows before this module

    @property
    def link(self) -> Link:
        return self.call.link

    def bands(self, further: int = 0) -> Bands:
        """Of the module's input, or ``further`` levels down. Raises: RuntimeError outside a model call."""
        if not self.call.levels:
            raise RuntimeError(
                f"{self.name or 'the module'} must be called by its parallel model, got a call of its own: "
                "its rows are spread over ranks. Call the whole model, or handle.close() first"
            )
        return self.call.levels[self.level + further]

    def sender(self, kind: str) -> Sender:
        return Sender(self.name, kind)


class Parallel:
    """Mixin of the class of everything that parallelize changed; ``BASE`` is the class it had."""

    BASE: ClassVar[type]

    @property
    def place(self) -> Place:
        return self.__dict__[PLACE]


@cache
def parallel_class(mixin: type, cls: type) -> type:
    """The class of a parallel module. Its ``__name__`` stays: libraries look classes up by it."""
    words: dict[str, Any] = {"__module__": __name__, "__qualname__": f"Parallel{cls.__name__}", "BASE": cls}
    return type(cls.__name__, (mixin, cls), words)


def enter(module: nn.Module, mixin: type, place: Place) -> None:
    """Make ``module`` parallel."""
    module.__dict__.pop("forward", None)  # the class's own, left by removed hooks: see ``check_forwards``
    module.__dict__[PLACE] = place
    module.__class__ = parallel_class(mixin, type(module))


def leave(module: nn.Module) -> None:
    """Undo ``enter``."""
    module.__dict__.pop("forward", None)  # as in ``enter``
    module.__class__ = module.BASE
    del module.__dict__[PLACE]
