"""What makes a run what it is, so that a store can tell one run from another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .climb import list_of
from .sizes import denoiser

HOW = ("callback_on_step_end", "callback_on_step_end_tensor_inputs")  # words that do not change the picture


def request_of(pipe: Any, words: Mapping[str, Any], generator: Any, **settings: Any) -> dict[str, Any]:
    """By name; weights are told apart by the pipeline's name or folder and the swap, not by their values."""
    from ..linearize import linearized

    handle = linearized(pipe)
    model, schedule = denoiser(pipe), pipe.scheduler.config
    return {
        "pipeline": f"{type(pipe).__name__} {pipe.config.get('_name_or_path')}",
        "method": None if handle is None else (handle.method.name, handle.options),
        "dtype": str(model.dtype),
        "scheduler": type(pipe.scheduler).__name__,
        "generator": [g.get_state() for g in list_of(generator)],
        **{f"scheduler {name}": value for name, value in schedule.items() if not name.startswith("_")},
        **settings,
        **what(words),
    }


def check_one_picture(words: Mapping[str, Any], image: Any) -> None:
    """Raises: ValueError for words that ask for several pictures; TypeError for an image not of PIL."""
    prompt, embeds = words.get("prompt"), words.get("prompt_embeds")
    if isinstance(prompt, (list, tuple)) and len(prompt) != 1:
        raise ValueError(f"prompt must be one prompt, got {len(prompt)}; call once for each")
    if embeds is not None and embeds.shape[0] != 1:
        raise ValueError(f"prompt_embeds must be of one prompt, got {embeds.shape[0]}; call once for each")
    if image is not None and not hasattr(image, "convert"):
        raise TypeError(f"image must be a PIL image, got {type(image).__name__}")


def what(words: Mapping[str, Any]) -> dict[str, Any]:
    """The words of a call that change the picture."""
    return {name: value for name, value in words.items() if name not in HOW}


def fresh_generator() -> torch.Generator:
    """One seeded by chance, whose state a store can keep."""
    generator = torch.Generator()
    generator.seed()
    return generator
