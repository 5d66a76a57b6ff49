"""How the pictures of LinFusion's SD-XL ladders are drawn: the first from text, the others from a picture."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .climb import Kept, Step
from .codec import encode
from .conditioning import Conditioning, Size, check_sdxl
from .image_to_image import text_to_image
from .pictures import resized
from .pieces import Statistics, statistics
from .planned import check_plan, picture_of_latents, plan_for, within
from .request import check_one_picture
from .schedule import check_scheduler
from .sdxl_rung import OnStepEnd, Rung, RungOptions
from .tiling import check_tile, tiled


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """The settings of one ladder.

    Args:
        words: of the pipeline's call.
        steps: of the whole schedule.
        ratios: how much larger than the model's own size each picture is, a whole number.
        told_size: what the model is told of the size; None: each picture's own.
        image: what the first rung enlarges, and then each rung is its own anchor; None: drawn from text.
    """

    pipe: Any
    words: dict[str, Any]
    steps: int
    options: RungOptions
    ratios: tuple[int, ...]
    told_size: Size | None = None
    image: Any = None
    tile: int | None
    memory: str | int | None
    generator: Any
    callback_on_step_end: Any

    def check(self, last: Size) -> None:
        """Raises: ValueError for a pipeline, scheduler, word, tile or memory that a rung cannot go with."""
        check_sdxl(self.pipe, self.words)
        check_one_picture(self.words, None)
        check_scheduler(self.pipe.scheduler)
        check_tile(self.pipe.vae, self.tile, max(last))
        check_plan(self.pipe, last, self.memory, self.words)

    def draw(self, number: int, step: Step, below: Any, kept: Kept, place: Path | None) -> tuple[Any, Kept]:
        size, pipe = (step.height, step.width), self.pipe
        plan = plan_for(pipe, size, self.memory, self.words)
        with ExitStack() as stack:
            stack.enter_context(tiled(pipe.vae, None if self.memory else self.tile))
            stack.enter_context(within(pipe, plan))
            if step.strength is None:
                latents = self.first(size)
                kept = statistics(latents)._asdict()
            else:
                latents = self.rung(number, step, self.image if below is None else below, kept)
            picture = picture_of_latents(pipe, latents, size, plan, place)
        pipe.maybe_free_model_hooks()
        return picture, kept

    def first(self, size: Size) -> Tensor:
        """Latents of the first picture, by the stock pipeline."""
        told = {"original_size": self.told_size, "target_size": self.told_size}
        callback = {"callback_on_step_end": self.callback_on_step_end} if self.callback_on_step_end else {}
        return text_to_image(self.pipe)(
            height=size[0],
            width=size[1],
            num_inference_steps=self.steps,
            generator=self.generator,
            output_type="latent",
            **{**told, **callback, **self.words},
        ).images

    def rung(self, number: int, step: Step, below: Any, kept: Kept) -> Tensor:
        """Latents of an enlarged picture."""
        size = (step.height, step.width)
        conditioning = Conditioning.of(self.pipe, self.told_size or size, self.words)
        enlarged = resized(below, *size)
        clean = encode(self.pipe, enlarged, self.generator, conditioning.prompt_embeds.dtype)
        rung = Rung(
            pipe=self.pipe,
            clean=clean,
            conditioning=conditioning,
            steps=self.steps,
            strength=step.strength,
            ratio=self.ratios[number],
            options=self.options,
            generator=self.generator,
            eta=float(self.words.get("eta", 0.0)),
        )
        anchor = statistics(clean) if self.image is not None else Statistics(**kept)
        return rung.walk(anchor, self.on_step_end())

    def on_step_end(self) -> OnStepEnd | None:
        """diffusers' callback, in the form that a rung calls."""
        if self.callback_on_step_end is None:
            return None

        def call(i: int, t: Tensor, latents: Tensor) -> Tensor:
            answer = self.callback_on_step_end(self.pipe, i, t, {"latents": latents})
            return (answer or {}).get("latents", latents)

        return call
