"""LinFusion's SD-XL pipelines (arXiv 2409.02097): from text to 16,384 pixels, and a picture enlarged.

Each rung enlarges the picture below it, noises it and denoises it (``sdxl_rung.py``). Its latents then get
the anchor's mean and deviation, by channel: those of the first picture, or of the picture to enlarge.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from .climb import Keeping, OnRungEnd, Step, climb
from .request import check_one_picture, fresh_generator, request_of
from .sdxl_drawing import Drawing
from .sdxl_rung import RungOptions
from .sizes import check_strengths, doubled_sizes, falling_strengths, ladder_steps, native_side


def sdxl_ladder(
    pipe: Any,
    prompt: str | None = None,
    *,
    height: int,
    width: int,
    num_inference_steps: int = 50,
    upscale_strength: float = 0.32,
    options: RungOptions | None = None,
    generator: torch.Generator | None = None,
    tile: int | None = 2048,
    memory: str | int | None = None,
    store: str | os.PathLike | None = None,
    resume: bool = True,
    output: str | os.PathLike | None = None,
    callback_on_rung_end: OnRungEnd | None = None,
    callback_on_step_end: Any = None,
    **words: Any,
) -> list[Any]:
    """Text to a large picture. Returns: PIL images of all rungs, the smallest first.

    The first picture has the request's aspect and the model's own long side (1024); each rung doubles it. The
    last is the first of at least the size asked for; a warning tells when it is another size.

    Args:
        pipe: a StableDiffusionXLPipeline, linearized, if the sizes are to be affordable. Its scheduler must
            take each step from its timestep alone (Euler, DDIM).
        height, width: of the last picture, in pixels.
        num_inference_steps: of the whole schedule; a rung walks its share, strength x steps.
        upscale_strength: of the first rung; later ones fall in equal steps to what would be 0 after the last.
        options: how a rung mixes its parts.
        words: of the pipeline's call: prompts, embeddings, ``guidance_scale``, ``guidance_rescale``, sizes
            for micro-conditioning (default: the last size, for every rung).
    The other arguments are those of ``ladder``. Raises: ValueError, before anything is drawn.
    """
    sizes = doubled_sizes(pipe, height, width)
    if sizes[-1] != (height, width):
        reached = f"{sizes[-1][0]} x {sizes[-1][1]}"
        warnings.warn(f"doublings do not reach {height} x {width}: the last is {reached}", stacklevel=2)
    strengths = falling_strengths(upscale_strength, len(sizes) - 1)
    check_strengths(strengths, num_inference_steps, rounds_up=True)
    drawing = Drawing(
        pipe=pipe,
        words=words if prompt is None else {"prompt": prompt, **words},
        steps=num_inference_steps,
        options=options or RungOptions(),
        ratios=tuple(2**i for i in range(len(sizes))),
        told_size=sizes[-1],
        tile=tile,
        memory=memory,
        generator=fresh_generator() if generator is None and store is not None else generator,
        callback_on_step_end=callback_on_step_end,
    )
    steps = [Step(*size, strength) for size, strength in zip(sizes, (None, *strengths), strict=True)]
    return climb_sdxl(drawing, steps, generator, Keeping(store, resume, output, callback_on_rung_end))


def super_resolution(
    pipe: Any,
    prompt: str | None = None,
    *,
    image: Any,
    strengths: Sequence[float] = (0.32,),
    factor: int = 2,
    num_inference_steps: int = 50,
    options: RungOptions | None = None,
    generator: torch.Generator | None = None,
    tile: int | None = 2048,
    memory: str | int | None = None,
    store: str | os.PathLike | None = None,
    resume: bool = True,
    output: str | os.PathLike | None = None,
    callback_on_rung_end: OnRungEnd | None = None,
    callback_on_step_end: Any = None,
    **words: Any,
) -> list[Any]:
    """Enlarge a picture by one rung, or climb by several. Returns: PIL images of all rungs.

    Convolutions are dilated by ceil(long side / 1024) of the enlarged picture; the anchor is the statistics
    of its latents before they are noised. Several rungs equal several calls, each from the last result.

    Args:
        image: PIL image.
        strengths: one a rung, each of which enlarges by ``factor``. LinFusion climbs from 512 x 1024 to
            8192 x 16384 by 0.32, 0.24, 0.16, 0.08 with a guidance scale of 7.5.
    The other arguments are those of ``sdxl_ladder``.
    """
    check_one_picture(words, image)
    steps = ladder_steps(pipe, None, None, strengths, factor, image)
    check_strengths(strengths, num_inference_steps, rounds_up=True)
    native = native_side(pipe)
    drawing = Drawing(
        pipe=pipe,
        words=words if prompt is None else {"prompt": prompt, **words},
        steps=num_inference_steps,
        options=options or RungOptions(),
        ratios=tuple(-(-max(step.height, step.width) // native) for step in steps),
        image=image,
        tile=tile,
        memory=memory,
        generator=fresh_generator() if generator is None and store is not None else generator,
        callback_on_step_end=callback_on_step_end,
    )
    return climb_sdxl(drawing, steps, generator, Keeping(store, resume, output, callback_on_rung_end))


def climb_sdxl(drawing: Drawing, steps: Sequence[Step], generator: Any, keeping: Keeping) -> list[Any]:
    drawing.check((steps[-1].height, steps[-1].width))
    request = request_of(
        drawing.pipe,
        drawing.words,
        generator,
        image=drawing.image,
        options=drawing.options,
        steps=drawing.steps,
        tile=drawing.tile,
    )
    return climb(drawing.pipe, steps, drawing.draw, drawing.generator, keeping, request)
