"""What a family (LinFusion, CLEAR, LiT) tells ``linearize``: which attentions it swaps, and its files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from torch import Tensor, nn

if TYPE_CHECKING:
    from .handle import LinearizedHandle

Grid = tuple[int, int]  # rows, columns of image tokens
OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one swapped attention costs at one size.

    Args:
        flops: of the linear form for one image, projections included; a multiply-add counts 2.
        softmax_flops: of the attention it replaces.
        values: numbers a token alive at the peak of the module, beyond its input.
    """

    flops: float
    softmax_flops: float
    values: float


class Method(ABC):
    """One family. Instances hold no state: everything a swap needs lies on the modules themselves."""

    name: ClassVar[str]
    models: ClassVar[tuple[str, ...]]  # diffusers class names
    inits: ClassVar[tuple[str, ...]] = ("inherit", "random")  # (): ``init`` is refused
    official: ClassVar[str] = ""  # why there are no published weights; empty where there are

    @abstractmethod
    def options(self, model: nn.Module, words: Mapping[str, Any]) -> Any:
        """The family's frozen options from keyword arguments. Raises: ValueError, TypeError."""

    @abstractmethod
    def targets(self, model: nn.Module) -> dict[str, nn.Module]:
        """Attention modules to swap, by dotted name in ``named_modules()`` order. Raises: ValueError."""

    @abstractmethod
    def attention(self, model: nn.Module, name: str, module: nn.Module) -> type:
        """The class that ``module`` gets: a subclass of ``OwnProcessor`` and of its present class."""

    def trained(self, module: nn.Module) -> tuple[str, ...]:
        """Children that the swap owns: the originals are kept aside, clones take their place."""
        return tuple(name for name in ("to_q", "to_k", "to_v", "to_out") if hasattr(module, name))

    def prepare(self, name: str, module: nn.Module, options: Any, init: str | None) -> None:
        """After the class swap: add children, parameters and plain attributes; initialise them."""
        return

    def finish(self, model: nn.Module, options: Any) -> None:
        """After all modules: what belongs to the model as a whole (CLEAR's rotary base)."""
        return

    def restore(self, model: nn.Module) -> None:
        """Undo ``finish``."""
        return

    def model_mixin(self, model: nn.Module) -> type | None:
        """A mixin for the model's class, for what every call must tell the attentions; None for nothing."""
        return None

    def source(self, model: nn.Module) -> str:
        """The hub id of the published weights for this model. Raises: ValueError when there are none."""
        raise ValueError(f"weights must name a file, a folder or tensors: {self.official}")

    @abstractmethod
    def read(
        self, model: nn.Module, source: str | Path, words: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Files -> tensors by the model's own parameter names, and the option words that the files settle.

        Args:
            source: a local file or folder, or a hub id.
            words: options that the caller gave. A contradiction with the files raises ValueError.
        """

    @abstractmethod
    def write(self, handle: LinearizedHandle, folder: Path) -> None:
        """Write files that the authors' tools read, where there are any, and that ``read`` takes."""

    @abstractmethod
    def cost(self, model: nn.Module, name: str, module: nn.Module, grid: Grid, text: int) -> Cost:
        """Of one swapped module.

        Args:
            grid: image tokens that the module sees.
            text: text tokens in the same sequence (0 where the model has none there).
        """

    def grid(self, model: nn.Module, name: str, latent: Grid) -> Grid:
        """Image tokens that module ``name`` sees for a latent of (height, width)."""
        patch = int(getattr(model.config, "patch_size", 1) or 1)
        return latent[0] // patch, latent[1] // patch


def make_options(cls: type[OptionsT], method: str, words: Mapping[str, Any]) -> OptionsT:
    """``cls(**words)``. Raises: ValueError naming a word that is no option, with the nearest that is."""
    known = {field.name: field for field in fields(cls)}
    for word in words:
        if word not in known:
            near = get_close_matches(word, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"options: {', '.join(known) or 'none'}"
            raise ValueError(f"linearize: {word} is not an option of method={method!r}; {hint}")
    missing = [
        n
        for n, f in known.items()
        if n not in words and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise ValueError(f"linearize: method={method!r} needs {', '.join(missing)}")
    return cls(**words)
