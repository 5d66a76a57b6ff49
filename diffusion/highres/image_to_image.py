"""The image-to-image form of a pipeline, made of its own modules: diffusers' where it has one, else ours."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from .codec import encode


def text_to_image(pipe: Any) -> Any:
    """``pipe``, or the text-to-image pipeline of its modules when it starts from an image."""
    if "strength" not in call_words(pipe):
        return pipe
    from diffusers import AutoPipelineForText2Image

    return like(AutoPipelineForText2Image.from_pipe(pipe), pipe)


def image_to_image(pipe: Any) -> Any:
    """The pipeline of ``pipe``'s modules that takes ``image`` and ``strength``.

    Raises: ValueError when there is none.
    """
    if {"image", "strength"} <= call_words(pipe):
        return pipe
    if type(pipe).__name__.startswith("PixArt"):
        return PixArtImageToImage(pipe)
    from diffusers import AutoPipelineForImage2Image

    try:
        return like(AutoPipelineForImage2Image.from_pipe(pipe), pipe)
    except ValueError as error:
        known = "SD, SD-XL, SD3, FLUX, PixArt"
        raise ValueError(
            f"pipe must have an image-to-image form ({known}), got {type(pipe).__name__}"
        ) from error


def rounds_up(redraw: Any) -> bool:
    """Whether part of a step counts as a step: in the flow pipelines (FLUX, SD3) it does, elsewhere not."""
    return hasattr(redraw, "transformer") and not isinstance(redraw, PixArtImageToImage)


def like(new: Any, pipe: Any) -> Any:
    """``new``, with the progress bar of ``pipe``."""
    new.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return new


def call_words(pipe: Any) -> set[str]:
    """The words of the pipeline's call."""
    own = inspect.signature(type(pipe).__call__).parameters
    names = {name for name, p in own.items() if p.kind is not p.VAR_KEYWORD} - {"self"}
    return names | call_words(pipe.pipe) if isinstance(pipe, PixArtImageToImage) else names


class PixArtImageToImage:
    """SDEdit for PixArt: the picture's latents, noised, walked down the rest of the schedule."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["pipe"], name)

    @torch.no_grad()
    def __call__(
        self,
        image: Any,
        strength: float,
        num_inference_steps: int = 20,
        generator: Any = None,
        height: int | None = None,
        width: int | None = None,
        **words: Any,
    ) -> Any:
        """The pipeline's own call, started from ``image``: a PIL image of the size wanted.

        Raises: ValueError for schedulers of second order, and those that take no ``timesteps``.
        """
        from diffusers.utils.torch_utils import randn_tensor

        pipe, scheduler = self.pipe, self.pipe.scheduler
        if scheduler.order != 1:
            raise ValueError(f"scheduler must be of order 1, got {type(scheduler).__name__}")
        device = torch.device(pipe._execution_device)
        scheduler.set_timesteps(num_inference_steps, device=device)
        steps = min(int(num_inference_steps * strength), num_inference_steps)
        timesteps = scheduler.timesteps[len(scheduler.timesteps) - steps :]
        clean = encode(pipe, image, generator, pipe.transformer.dtype)
        noise = randn_tensor(clean.shape, generator=generator, device=device, dtype=clean.dtype)
        noised = scheduler.add_noise(clean, noise, timesteps[:1])
        return pipe(
            latents=noised / scheduler.init_noise_sigma,  # the pipeline multiplies by it
            timesteps=timesteps.tolist(),
            generator=generator,
            height=height or image.height,
            width=width or image.width,
            **words,
        )
