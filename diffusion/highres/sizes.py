"""The sizes of a ladder's pictures, from its last one or from the picture it starts with. Sizes are H x W."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .climb import Step

STRENGTHS = (0.4, 0.3, 0.2, 0.1)  # LinFusion's, from the first rung up


def denoiser(pipe: Any) -> Any:
    """The UNet or transformer of a pipeline."""
    model = getattr(pipe, "unet", None)
    return pipe.transformer if model is None else model


def unit(pipe: Any) -> int:
    """Pixels of which both sides must be a multiple: of a latent position, or of a token of several."""
    packs = 2 if hasattr(pipe, "_pack_latents") else 1
    return pipe.vae_scale_factor * packs * int(denoiser(pipe).config.get("patch_size") or 1)


def native_side(pipe: Any) -> int:
    """Pixels of a side at the size that the model was trained at, as its config says."""
    side = getattr(pipe, "default_sample_size", None) or denoiser(pipe).config.sample_size
    return pipe.vae_scale_factor * (side if isinstance(side, int) else min(side))


def usual_strengths(pipe: Any, height: int | None, width: int | None, factor: int) -> tuple[float, ...]:
    """LinFusion's, as many as keep the first picture's short side at the model's own size or above.

    Raises: ValueError when there are more rungs than LinFusion has strengths for.
    """
    check_given(height, width)
    native, rungs = native_side(pipe), 0
    while min(height, width) >= native * factor ** (rungs + 1):
        rungs += 1
    if rungs > len(STRENGTHS):
        raise ValueError(
            f"strengths must be given for {height} x {width}: it is {rungs} rungs above {native}, and "
            f"there are {len(STRENGTHS)} usual strengths"
        )
    return STRENGTHS[:rungs]


def ladder_steps(
    pipe: Any, height: int | None, width: int | None, strengths: Sequence[float], factor: int, image: Any
) -> list[Step]:
    """All pictures to draw.

    Args:
        image: what the first rung enlarges; None: the first picture is drawn from text and counts as a step.
    Raises: ValueError for sizes that the factors do not reach.
    """
    if not isinstance(factor, int) or factor < 1:
        raise ValueError(f"factor must be a whole number >= 1, got {factor!r}")
    total = factor ** len(strengths)
    if image is not None:
        first = (image.height, image.width)
        end = (first[0] * total, first[1] * total)
        if (height or end[0], width or end[1]) != end:
            raise ValueError(
                f"height and width must be {end[0]} x {end[1]}, image times {total}, got {height} x {width}"
            )
        if not strengths:
            raise ValueError("strengths must hold one number a rung, got none")
    else:
        check_given(height, width)
        first = (height // total, width // total)
    whole = unit(pipe)
    if first[0] % whole or first[1] % whole or (image is None and (height % total or width % total)):
        which = "image" if image is not None else f"height and width divided by {total}"
        got = first if image is not None else (height, width)
        raise ValueError(f"{which} must be multiples of {whole} pixels, got {got[0]} x {got[1]}")
    growth = [factor ** (i + 1) for i in range(len(strengths))]
    rungs = [Step(first[0] * g, first[1] * g, s) for g, s in zip(growth, strengths, strict=True)]
    steps = rungs if image is not None else [Step(*first), *rungs]
    check_positions_table(pipe, steps[-1])
    return steps


def doubled_sizes(pipe: Any, height: int, width: int) -> list[tuple[int, int]]:
    """From the model's own long side by doublings to at least ``height`` x ``width``, at their aspect.

    The first is rounded to multiples of 8 pixels, as the pipelines ask. A size within the model's own is the
    only one.
    """
    check_given(height, width)
    native, factor = native_side(pipe), math.lcm(8, pipe.vae_scale_factor)
    rungs = doublings(max(height, width), native)
    if rungs == 0:
        return [(height, width)]
    scale = native / max(height, width)
    first = [max(factor, round(side * scale / factor) * factor) for side in (height, width)]
    return [(first[0] * 2**i, first[1] * 2**i) for i in range(rungs + 1)]


def doublings(long_side: int, base: int) -> int:
    """Rungs from ``base`` up: the least n with base 2^n >= long_side, both in the same unit."""
    return max(0, (-(-long_side // base) - 1).bit_length())


def falling_strengths(first: float, rungs: int) -> tuple[float, ...]:
    """``rungs`` strengths from ``first`` in equal steps; the zero that would follow is left out."""
    return tuple(first * (rungs - i) / rungs for i in range(rungs))


def check_given(height: int | None, width: int | None) -> None:
    for name, value in (("height", height), ("width", width)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive number of pixels, got {value!r}")


def check_positions_table(pipe: Any, last: Step) -> None:
    """Raises: ValueError when SD3's learned table of positions does not reach the last size."""
    most = denoiser(pipe).config.get("pos_embed_max_size")
    if most and max(last.height, last.width) // unit(pipe) > most:
        side = most * unit(pipe)
        raise ValueError(
            f"height and width must be at most {side}, the end of this model's table of positions, got "
            f"{last.height} x {last.width}"
        )


def check_strengths(strengths: Sequence[float], steps: int, rounds_up: bool = False) -> None:
    """Raises: ValueError when a rung would walk no step of the schedule, or more than there are.

    Args:
        rounds_up: part of a step counts as one; otherwise as none, as in diffusers.
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"num_inference_steps must be a whole number >= 1, got {steps!r}")
    for strength in strengths:
        if not 0 < strength <= 1:
            raise ValueError(f"strengths must be above 0 and at most 1, got {strength}")
        if not rounds_up and int(steps * strength) < 1:
            raise ValueError(
                f"strengths must leave at least 1 of {steps} steps, got {strength}; take more steps"
            )
