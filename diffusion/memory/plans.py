"""A memory plan: which measures are on, what each stage will hold, and the plan applied to a pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from .inputs import kind_of
from .parts import Parts
from .stages import Stage, switch_on
from .tiles import set_tiling

# in the order in which the planner takes them: the first cost nothing, the last cost transfers or a file
MEASURES = ("feed_forward", "rows", "attention", "skips", "vae_tiles", "vae_stream")


class MemoryPlanError(ValueError):
    """The picture does not fit, whatever the plan does; the message says what it would need."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one picture is drawn within ``budget`` bytes; ``print(plan)`` shows it.

    Args:
        height, width: pixels. batch: pictures a call. rows: rows that the denoiser is called with.
        device: "cpu" or "cuda". dtype: of the denoiser. budget: bytes for weights and work; None: no limit.
        measures: those that are on, of MEASURES. tokens: of a chunk. tile: pixels of a VAE tile's side.
        stages: predicted bytes.
        model: diffusers' class of the denoiser; the plan is for no other.
    """

    height: int
    width: int
    batch: int
    rows: int
    device: str
    dtype: str
    budget: int | None
    measures: tuple[str, ...]
    tokens: int
    tile: int | None
    stages: tuple[Stage, ...]
    model: str

    @property
    def streams(self) -> bool:
        """Whether the picture goes to a file by strips: draw latents, then ``decode_to_file``."""
        return "vae_stream" in self.measures

    @property
    def largest(self) -> Stage:
        return max(self.stages, key=lambda stage: stage.total)

    @property
    def peak(self) -> int:
        """Predicted bytes of weights and work at the largest stage."""
        return self.largest.total

    @property
    def work(self) -> int:
        """Predicted bytes beyond the weights, the most of any stage."""
        return max(stage.work for stage in self.stages)

    @contextmanager
    def applied(self, pipe_or_model: Any) -> Iterator[None]:
        """Inside, the pipeline or model works by the plan; afterwards, on any error too, as before.

        Raises: ValueError for another kind of model than the plan is for.
        """
        parts = Parts.of(pipe_or_model)
        if kind_of(parts.denoiser) != self.model:
            raise ValueError(f"the plan is for a {self.model}, got a {kind_of(parts.denoiser)}")
        with ExitStack() as stack:
            switch_on(stack, parts.denoiser, self.measures, self.tokens)
            if parts.vae is not None and {"vae_tiles", "vae_stream"} & set(self.measures):
                set_tiling(stack, parts.vae, self.tile)
            yield

    def __str__(self) -> str:
        guided = f", {self.rows} rows with guidance" if self.rows > self.batch else ""
        pictures = f"{self.batch} picture{'s' * (self.batch > 1)}"
        lines = [f"memory plan: {self.height} x {self.width} pixels, {pictures}{guided}, "
                 f"{self.model} in {self.dtype} on {self.device}"]  # fmt: skip
        lines.append(f"{'stage':<14}{'weights':>11}{'work':>11}{'total':>11}")
        lines += [f"{s.name:<14}{gb(s.weights):>11}{gb(s.work):>11}{gb(s.total):>11}" for s in self.stages]
        limit = "no limit" if self.budget is None else f"of {gb(self.budget)}"
        lines.append(f"predicted peak: {gb(self.peak)} {limit} ({self.largest.name})")
        on = [self._words(name) for name in self.measures]
        lines.append(f"on: {'; '.join(on) or 'nothing'}")
        off = [name for name in MEASURES if name not in self.measures]
        return "\n".join([*lines, f"off: {', '.join(off) or 'nothing'}"])

    def _words(self, measure: str) -> str:
        said = {
            "feed_forward": f"chunks of {self.tokens} tokens",
            "rows": "one row of the batch at a time",
            "attention": f"tiles of {self.tokens} tokens",
            "skips": "in temporary files" if self.device == "cpu" else "in the CPU's memory",
            "vae_tiles": f"tiles of {self.tile} pixels",
            "vae_stream": f"tiles of {self.tile} pixels, straight to the file",
        }
        return f"{measure} ({said[measure]})"


def gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
