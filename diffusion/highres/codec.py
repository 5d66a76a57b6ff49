"""Pictures to latents and back, as SD-XL's pipelines do it: in float32 where the VAE asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def encode(pipe: Any, image: Any, generator: Any, dtype: torch.dtype) -> Tensor:
    """A PIL image -> latents (1, C, height, width), sampled with ``generator``."""
    pixels = pipe.image_processor.preprocess(image).to(pipe._execution_device)
    with upcast(pipe.vae, pipe.vae.config.force_upcast):
        moments = pipe.vae.encode(pixels.to(pipe.vae.dtype)).latent_dist
        latents = moments.sample(generator).to(dtype)
    mean, std = latent_statistics(pipe.vae, latents)
    return (latents - mean) * pipe.vae.config.scaling_factor / std


def decode(pipe: Any, latents: Tensor) -> Any:
    """Latents -> a PIL image."""
    latents = to_decoder(pipe.vae, latents)
    with upcast(pipe.vae, pipe.vae.dtype == torch.float16 and pipe.vae.config.force_upcast):
        pixels = pipe.vae.decode(latents.to(pipe.vae.dtype), return_dict=False)[0]
    return pipe.image_processor.postprocess(pixels, output_type="pil")[0]


def to_decoder(vae: Any, latents: Tensor) -> Tensor:
    """The latents of the diffusion model in the units of ``vae.decode``."""
    mean, std = latent_statistics(vae, latents)
    return latents * std / vae.config.scaling_factor + mean


def latent_statistics(vae: Any, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Per channel, where the VAE's config has them; else 0 and 1."""
    mean, std = (vae.config.get(name) for name in ("latents_mean", "latents_std"))
    if mean is None or std is None:
        return 0.0, 1.0
    return tuple(torch.tensor(values).view(1, -1, 1, 1).to(like) for values in (mean, std))


@contextmanager
def upcast(vae: Any, wanted: bool) -> Iterator[None]:
    """Within: the VAE in float32, if wanted; after: in the dtype it had."""
    dtype = vae.dtype
    if not wanted or dtype == torch.float32:
        yield
        return
    vae.to(torch.float32)
    try:
        yield
    finally:
        vae.to(dtype)
