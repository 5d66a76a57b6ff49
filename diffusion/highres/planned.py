"""One picture from a pipeline's call, within a memory plan if one is wanted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from .codec import decode
from .pictures import open_picture

Size = tuple[int, int]


def plan_for(pipe: Any, size: Size, memory: str | int | None, words: Mapping[str, Any]) -> Any:
    """The memory plan of one picture of ``size``; None for ``memory`` None."""
    if memory is None:
        return None
    from ..memory import plan

    extra = {}
    embeds = words.get("prompt_embeds")
    if embeds is not None:
        extra["text_tokens"] = embeds.shape[1]
    scale = words.get("true_cfg_scale" if hasattr(pipe, "_pack_latents") else "guidance_scale")
    if scale is not None:
        extra["guidance"] = scale > 1
    return plan(pipe, *size, memory=memory, **extra)


def check_plan(pipe: Any, size: Size, memory: str | int | None, words: Mapping[str, Any]) -> None:
    """Raises: MemoryPlanError, before a ladder's first picture, when its last of ``size`` will not fit."""
    plan_for(pipe, size, memory, words)


def picture_of_call(
    pipe: Any,
    call: Callable,
    words: Mapping[str, Any],
    size: Size,
    memory: str | int | None,
    place: Path | None,
) -> Any:
    """The PIL image that ``call`` (a pipeline of ``pipe``'s modules) makes.

    Args:
        place: where the picture may be streamed to, if the plan says so.
    """
    plan = plan_for(pipe, size, memory, words)
    if plan is None:
        return call(**words, output_type="pil").images[0]
    with within(pipe, plan):
        if not plan.streams:
            return call(**words, output_type="pil").images[0]
        latents = call(**words, output_type="latent").images
        return streamed(pipe, latents, size, plan, place)


def picture_of_latents(pipe: Any, latents: Tensor, size: Size, plan: Any, place: Path | None) -> Any:
    """The PIL image of latents, decoded within the plan (None: at once)."""
    if plan is None or not plan.streams:
        return decode(pipe, latents)
    return streamed(pipe, latents, size, plan, place)


def within(pipe: Any, plan: Any) -> AbstractContextManager:
    """The plan applied, its tiles for the encoder too; None: nothing is."""
    return nullcontext() if plan is None else plan.applied(pipe)


def streamed(pipe: Any, latents: Tensor, size: Size, plan: Any, place: Path | None) -> Any:
    from ..memory import decode_to_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png" if place is None else place
        decode_to_file(pipe, latents, path, tile=plan.tile, height=size[0], width=size[1])
        image = open_picture(path)
        if place is None:
            image.load()
        return image
