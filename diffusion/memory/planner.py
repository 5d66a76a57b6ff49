"""``plan``: from a pipeline, a size and a budget to a ``Plan``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from .free import free_bytes
from .inputs import TEXT_TOKENS, guided, kind_of
from .parts import Parts
from .plans import MEASURES, MemoryPlanError, Plan, gb
from .skeleton import skeleton
from .skips import why_not
from .stages import Job, Stage, denoiser_work, text_work, vae_work
from .tiles import factor_of

SHARE = 0.9  # of what is free that "auto" takes
TOKENS = 4096
SMALLEST_TILE = 256  # pixels; below it, blending repeats most of the work
LATENT_PIXELS = 8  # a latent position's side for a bare model, as in all published ones


def plan(
    pipe_or_model: Any,
    height: int,
    width: int,
    *,
    memory: str | int | None = "auto",
    batch: int = 1,
    guidance: bool | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    offload: bool | None = None,
    text_tokens: int | None = None,
    measures: Sequence[str] | None = None,
    tokens: int = TOKENS,
    tile: int | None = None,
) -> Plan:
    """How pictures of ``height`` x ``width`` pixels are drawn within ``memory``; nothing is drawn or changed.

    Args:
        pipe_or_model: a diffusers pipeline, its UNet or transformer, or ``blank(..)``. Linearize it first.
        memory: bytes for everything, weights too; "auto": 90 % of what is free, and what the weights that are
            already there take; None: no limit.
        batch: pictures a call.
        guidance: whether a picture is two rows of the batch; None: where the pipelines do that (not FLUX).
        dtype: None: the models' own.
        device: "cpu" or "cuda"; None: the model's (meta counts as "cpu").
        offload: whether only the stage's own weights are on the device; None: as hooks on the models say.
        text_tokens: of the prompt; None: the most that the pipeline takes.
        measures: None: the planner takes them in the order of MEASURES until it fits; a tuple: exactly these.
        tokens: of a chunk.
        tile: pixels of a VAE tile's side; None: the VAE's own, or half, or a quarter of it, down to 256.
    Returns: Plan; measures that this pipeline cannot take are never in one that the planner chose.
    Raises: MemoryPlanError when it does not fit; ValueError, TypeError for bad arguments.
    """
    parts = Parts.of(pipe_or_model)
    where = torch.device(device or parts.device()).type.replace("meta", "cpu")
    job = job_of(parts, (height, width), batch, guidance, text_tokens, where, tokens)
    offload = parts.offloaded() if offload is None else offload
    weights = parts.weights(dtype)
    budget = budget_of(memory, parts, where, sum(weights.values()))
    ways = Ways(parts, job, dtype, weights, offload, tile, check_measures(measures))
    text = [] if not parts.text else [ways.text()]
    stages, on = [*text], []
    for options in (ways.denoiser(), *([ways.vae()] if parts.vae is not None else [])):
        stage, names, side = first_that_fits(options, budget)
        stages.append(stage)
        on += names
        tile = side or tile
    largest = max(stages, key=lambda stage: stage.total)
    if budget is not None and largest.total > budget:
        raise too_large(largest, budget, (height, width))
    return Plan(
        height=height, width=width, batch=batch, rows=job.rows, device=where, budget=budget, tokens=tokens,
        dtype=str(ways.dtype).removeprefix("torch."), measures=tuple(on), tile=tile, stages=tuple(stages),
        model=kind_of(parts.denoiser),
    )  # fmt: skip


def job_of(
    parts: Parts, size: tuple[int, int], batch: int, guidance: bool | None, text: int | None, device: str,
    tokens: int,
) -> Job:  # fmt: skip
    """Raises: ValueError."""
    factor = LATENT_PIXELS if parts.vae is None else factor_of(parts.vae)
    step = factor * int(getattr(parts.denoiser.config, "patch_size", 1) or 1)
    step *= 2 if kind_of(parts.denoiser) == "FluxTransformer2DModel" else 1
    for name, value in zip(("height", "width"), size, strict=True):
        if not isinstance(value, int) or value < step or value % step:
            raise ValueError(f"{name} must be a multiple of {step} pixels, got {value!r}")
    for name, value in (("batch", batch), ("tokens", tokens)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive number, got {value!r}")
    two = guided(parts.denoiser) and guidance is not False
    return Job(
        latent=(size[0] // factor, size[1] // factor), batch=batch, rows=2 * batch if two else batch,
        text=TEXT_TOKENS[kind_of(parts.denoiser)] if text is None else text, device=device, tokens=tokens,
    )  # fmt: skip


def budget_of(memory: str | int | None, parts: Parts, device: str, weights: int) -> int | None:
    """Bytes for weights and work. Raises: ValueError."""
    if memory is None:
        return None
    if memory == "auto":
        there = weights if parts.device().type == device else 0
        return int(SHARE * free_bytes(device)) + there
    if isinstance(memory, bool) or not isinstance(memory, int | float) or memory <= 0:
        raise ValueError(f'memory must be "auto", None or a positive number of bytes, got {memory!r}')
    return int(memory)


def check_measures(measures: Sequence[str] | None) -> tuple[str, ...] | None:
    """Raises: ValueError."""
    if measures is None:
        return None
    for name in measures:
        if name not in MEASURES:
            raise ValueError(f"measures must be of {', '.join(MEASURES)}, got {name!r}")
    return tuple(name for name in MEASURES if name in measures)


Way = tuple[Stage, tuple[str, ...], int | None]  # a stage, its measures, the VAE's tile


class Ways:
    """The ways in which each stage can go, the plain one first."""

    def __init__(
        self, parts: Parts, job: Job, dtype: torch.dtype | None, weights: dict[str, int], offload: bool,
        tile: int | None, fixed: tuple[str, ...] | None,
    ) -> None:  # fmt: skip
        self.parts, self.job, self.cast, self.tile, self.fixed = parts, job, dtype, tile, fixed
        self.dtype = dtype or next(parts.denoiser.parameters()).dtype
        self.weights = weights if offload else dict.fromkeys(weights, sum(weights.values()))

    def text(self) -> Stage:
        bones = [skeleton(encoder, self.cast) for encoder in self.parts.text.values()]
        work = text_work(bones, self.job)
        return Stage(name="text encoders", weights=self.weights["text encoders"], work=work)

    def denoiser(self) -> Iterator[Way]:
        bones = skeleton(self.parts.denoiser, self.cast)
        known = [n for n in MEASURES[:4] if n != "skips" or not why_not(bones)]
        if self.fixed is not None:
            self._check(bones)
        steps = cumulative(known) if self.fixed is None else [[n for n in known if n in self.fixed]]
        for on in steps:
            if on and on[-1] == "rows" and self.job.rows == 1 and self.fixed is None:
                continue
            work = denoiser_work(bones, self.job, on, self.parts.vae is not None)
            used = tuple(n for n in on if n != "rows" or self.job.rows > 1 or self.fixed)
            yield Stage(name="denoiser", weights=self.weights["denoiser"], work=work), used, None

    def _check(self, bones: nn.Module) -> None:
        if "skips" in self.fixed and why_not(bones):
            raise ValueError(f"measures must do without 'skips' for {kind_of(bones)}: {why_not(bones)}")

    def vae(self) -> Iterator[Way]:
        cast, kept = self.cast, self.weights["VAE decode"]
        vae = self.parts.vae
        if (cast or next(vae.parameters()).dtype) == torch.float16 and vae.config.get("force_upcast"):
            cast = torch.float32
            kept += sum(p.numel() * 2 for p in vae.parameters())
        bones = skeleton(vae, cast)
        own = self.tile or vae.tile_sample_min_size
        sides = [own] if self.tile or self.fixed is not None else halves(own)
        tiles = [("vae_tiles", side) for side in sides]
        ways = [("", own), *tiles, *(("vae_stream", side) for _, side in tiles)]
        if vae.use_tiling:
            ways = ways[1:]
        if self.fixed is not None:
            ways = [next((w for w in reversed(ways) if w[0] in self.fixed), ways[0])]
        for measure, side in ways:
            stage = Stage(name="VAE decode", weights=kept, work=vae_work(bones, self.job, measure, side))
            yield stage, (measure,) if measure else (), side if measure else None


def cumulative(names: Sequence[str]) -> list[list[str]]:
    return [list(names[:count]) for count in range(len(names) + 1)]


def halves(side: int) -> list[int]:
    """The VAE's tile and smaller ones."""
    sides = [side]
    while sides[-1] // 2 >= SMALLEST_TILE:
        sides.append(sides[-1] // 2)
    return sides


def first_that_fits(ways: Iterator[Way], budget: int | None) -> Way:
    """The first way within the budget; where there is none, the one that takes least."""
    tried = []
    for way in ways:
        if budget is None or way[0].total <= budget:
            return way
        tried.append(way)
    return min(tried, key=lambda way: way[0].total)


def too_large(stage: Stage, budget: int, size: tuple[int, int]) -> MemoryPlanError:
    least = -(-stage.total // 10**7) * 10**7  # rounded up as it is printed: what is asked for is enough
    return MemoryPlanError(
        f"memory must be at least {gb(least)} for {size[0]} x {size[1]} ({stage.name}: "
        f"{gb(stage.weights)} of weights, {gb(stage.work)} of work with every measure that helps), got "
        f"{gb(budget)}"
    )
