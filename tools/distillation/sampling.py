"""Pictures from any denoiser: DDIM, or Euler steps for flow models, with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...diffusion.distill import denoiser_of
from ..runs.plan import generator


@torch.no_grad()
def sample(
    model: nn.Module,
    scheduler: Any,
    conditions: Mapping[str, Tensor],
    *,
    shape: tuple[int, int, int],
    steps: int,
    guidance: float = 1.0,
    seed: int = 0,
    absent: Mapping[str, Tensor] | None = None,
    embedded_guidance: float = 3.5,
) -> Tensor:
    """One picture a row of ``conditions``; the same seed gives every model the same noise.

    Args:
        scheduler: of the training; its settings make the sampler.
        shape: (C, h, w) of the latents.
        guidance: 1 for none; above, ``absent`` stands for the conditions left out (default: the null class).
        embedded_guidance: what FLUX.1-dev is told.
    Returns: latents (B, C, h, w), scaled as the model has them.
    """
    denoiser = denoiser_of(model, embedded_guidance)
    rows = len(next(iter(conditions.values())))
    device = next(model.parameters()).device
    latents = torch.randn((rows, *shape), generator=generator(seed)).to(device)
    conditions = {name: value.to(device) for name, value in conditions.items()}
    other = None
    if guidance != 1:
        other = denoiser.absent(conditions) if absent is None else absent
        other = conditions | {name: value.to(device) for name, value in other.items()}
    sampler = make_sampler(scheduler, steps, shape)
    was_training = model.training
    model.eval()
    for time in sampler.timesteps:
        call = partial(denoiser.predict, model, latents, time.to(device).expand(rows))
        prediction = call(conditions)
        if other is not None:
            without = call(other)
            prediction = without + guidance * (prediction - without)
        latents = sampler.step(prediction[:, : shape[0]].float(), time, latents).prev_sample
    model.train(was_training)
    return latents


def make_sampler(scheduler: Any, steps: int, shape: tuple[int, int, int]) -> Any:
    """A DDIMScheduler, or for flows Euler steps, shifted for the size where the settings say so."""
    import diffusers

    if "FlowMatch" not in type(scheduler).__name__:
        sampler = diffusers.DDIMScheduler.from_config(scheduler.config)
        sampler.set_timesteps(steps)
        return sampler
    sampler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(scheduler.config)
    words = {}
    if sampler.config.use_dynamic_shifting:
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        words["mu"] = calculate_shift(shape[1] * shape[2] // 4)
    sampler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), **words)
    return sampler


def grid(pictures: Tensor) -> np.ndarray:
    """(B, C, H, W) from -1 to 1 -> one picture (rows H, columns W, 3) of uint8, in reading order."""
    count, channels, height, width = pictures.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = torch.ones(rows * columns, channels, height, width)
    sheet[:count] = pictures.float().cpu().clamp(-1, 1)
    tiles = sheet.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2)
    pixels = ((tiles.reshape(rows * height, columns * width, channels) + 1) * 127.5).round().byte().numpy()
    return pixels.repeat(3, axis=2) if channels == 1 else pixels
