"""The SDEdit ladder: a first picture, then each one enlarged, noised a little and denoised at its new size.

It takes a model far beyond the size it was trained at (LinFusion, arXiv 2409.02097: SD-1.5 from 512 x 1024 to
8192 x 16384 by four doublings), because the rungs redraw details only. CLEAR's form (arXiv 2412.16112) is one
rung of factor 4 with a larger rotary base and scores that grow with the number of tokens.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .climb import Keeping, Kept, OnRungEnd, Step, climb
from .image_to_image import call_words, image_to_image, like, rounds_up, text_to_image
from .pictures import resized
from .planned import check_plan, picture_of_call
from .positions import check_positions, positions
from .request import check_one_picture, fresh_generator, request_of, what
from .sizes import check_strengths, ladder_steps, usual_strengths
from .tiling import check_tile, tiled

CLEAR: Mapping[str, Any] = {
    "strengths": (0.7,),
    "factor": 4,
    "num_inference_steps": 20,
    "guidance_scale": 3.5,
    "rung_words": {"guidance_scale": 7.5},
    "ntk_factor": 10.0,
    "proportional_attention": True,
}
OURS = ("image", "strength", "latents", "output_type", "return_dict", "num_images_per_prompt")


def ladder(
    pipe: Any,
    prompt: str | None = None,
    *,
    height: int | None = None,
    width: int | None = None,
    image: Any = None,
    strengths: Sequence[float] | None = None,
    factor: int = 2,
    num_inference_steps: int = 50,
    generator: torch.Generator | None = None,
    rung_words: Mapping[str, Any] | None = None,
    ntk_factor: float | None = None,
    proportional_attention: bool | None = None,
    tile: int | None = 2048,
    memory: str | int | None = None,
    store: str | os.PathLike | None = None,
    resume: bool = True,
    output: str | os.PathLike | None = None,
    callback_on_rung_end: OnRungEnd | None = None,
    **words: Any,
) -> list[Any]:
    """Climb to ``height`` x ``width`` pixels. Returns: PIL images of all rungs, the smallest first.

    Args:
        pipe: a diffusers pipeline with an image-to-image form (SD, SD-XL, SD3, FLUX), or PixArt; linearized,
            if the sizes are to be affordable.
        height, width: of the last picture. Default: those of ``image`` enlarged by all rungs.
        image: PIL image to start from; None: the first picture is drawn from the prompt.
        strengths: one a rung, each of which enlarges by ``factor``. None: 0.4, 0.3, 0.2, 0.1, as many as keep
            the first picture's short side at the model's own size or above.
        num_inference_steps: of the whole schedule; a rung walks its share, strength x steps.
        generator: all randomness, in the order in which the same calls by hand would use it.
        rung_words: words of the pipeline's call that the rungs get in place of those in ``words``.
        ntk_factor: FLUX's rotary base is 10,000 times this during the rungs.
        proportional_attention: CLEAR's, during the rungs.
        tile: side in pixels of the VAE's tiles, for pictures larger than one; None: no tiling.
        memory: "auto" or bytes: ``linzoo.diffusion.memory`` plans each picture to fit, its tiles too.
        store, resume: a folder that keeps each finished rung; a run that was stopped goes on after the last.
        output: .png, .tif or .tiff file of the last picture, written by strips.
        callback_on_rung_end: called with (pipe, number, PIL image) after each picture.
        words: of the pipeline's call (``guidance_scale``, ``negative_prompt``, ``prompt_embeds``, ...).
    Raises: ValueError, before anything is drawn, for sizes, strengths or words that do not go together.
    """
    words = words if prompt is None else {"prompt": prompt, **words}
    check_one_picture(words, image)
    redraw, text = image_to_image(pipe), text_to_image(pipe)
    if strengths is None:
        if image is not None:
            raise ValueError("strengths must be given with image, one a rung, got None")
        strengths = usual_strengths(pipe, height, width, factor)
    steps = ladder_steps(pipe, height, width, strengths, factor, image)
    check_strengths(strengths, num_inference_steps, rounds_up(redraw))
    check_tile(pipe.vae, tile, max(steps[-1].height, steps[-1].width))
    check_positions(pipe, ntk_factor, proportional_attention)
    drawing = Drawing(
        pipe=pipe,
        text=text,
        redraw=redraw,
        image=image,
        words=words,
        rung_words={**words, **(rung_words or {})},
        steps=num_inference_steps,
        stretch=(ntk_factor, proportional_attention),
        tile=tile,
        memory=memory,
        generator=fresh_generator() if generator is None and store is not None else generator,
    )
    drawing.check_words()
    check_plan(pipe, (steps[-1].height, steps[-1].width), memory, drawing.rung_words)
    settings = {
        "rung_words": what(rung_words or {}),
        "steps": num_inference_steps,
        "stretch": drawing.stretch,
    }
    request = request_of(pipe, words, generator, image=image, tile=tile, **settings)
    keeping = Keeping(store, resume, output, callback_on_rung_end)
    return climb(pipe, steps, drawing.draw, drawing.generator, keeping, request)


def clear_ladder(pipe: Any, prompt: str | None = None, **words: Any) -> list[Any]:
    """``ladder`` with the settings of CLEAR's example on FLUX: 512 x 1024, then 2048 x 4096 by one rung."""
    return ladder(pipe, prompt, **{**CLEAR, **words})


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """How the pictures of one ladder are drawn.

    Args:
        text, redraw: pipelines of ``pipe``'s modules, for the first picture and for the rungs.
        stretch: ``ntk_factor`` and ``proportional_attention`` of the rungs.
    """

    pipe: Any
    text: Any
    redraw: Any
    image: Any
    words: Mapping[str, Any]
    rung_words: Mapping[str, Any]
    steps: int
    stretch: tuple[float | None, bool | None]
    tile: int | None
    memory: str | int | None
    generator: Any

    def check_words(self) -> None:
        """Raises: ValueError for a word that neither pipeline's call has, or that the ladder sets itself."""
        known = call_words(self.text) | call_words(self.redraw)
        for name in {**self.words, **self.rung_words}:
            if name in OURS:
                raise ValueError(f"words must leave {name} to the ladder, which sets it")
            if name not in known:
                raise ValueError(f"words must be of the call of {type(self.pipe).__name__}, got {name}")

    def draw(self, number: int, step: Step, below: Any, kept: Kept, place: Path | None) -> tuple[Any, Kept]:
        below = self.image if below is None else below
        with tiled(self.pipe.vae, None if self.memory else self.tile):
            if below is None:
                return self.picture(self.text, self.words, step, place), kept
            with positions(self.pipe, *self.stretch, self.rung_words) as extra:
                words = {**self.rung_words, **extra, "strength": step.strength}
                words["image"] = resized(below, step.height, step.width)
                return self.picture(self.redraw, words, step, place), kept

    def picture(self, call: Any, words: Mapping[str, Any], step: Step, place: Path | None) -> Any:
        words = {"height": step.height, "width": step.width, "num_inference_steps": self.steps, **words}
        words = {"use_resolution_binning": False, "generator": self.generator, **words}
        like(call, self.pipe)  # its progress bar too
        taken = {name: value for name, value in words.items() if name in call_words(call)}
        picture = picture_of_call(self.pipe, call, taken, (step.height, step.width), self.memory, place)
        self.pipe.maybe_free_model_hooks()  # offloading is this pipeline's, not that of its other forms
        return picture
