"""Latents to a picture file by strips: decoded in tiles, converted and written as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .tiles import decoded_rows, factor_of


def decode_to_file(
    pipe_or_vae: Any,
    latents: Tensor,
    path: str | Path,
    tile: int | None = None,
    *,
    height: int | None = None,
    width: int | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> Path:
    """What a pipeline returns with ``output_type="latent"``, decoded into ``path`` (.png, .tif, .tiff).

    The pixels are those that the pipeline makes with tiled decoding and tiles of ``tile`` pixels; neither
    they nor the decoder's work are in memory for more than a row of tiles.

    Args:
        latents: one picture, (1, C, h, w), or packed as FLUX's (1, tokens, C): then with height and width.
        tile: pixels; None: as the VAE is set.
        progress: called with rows written and rows in all, after each strip.
    Returns: ``path``; the file is there when it is whole.
    Raises: ValueError, TypeError.
    """
    from ..highres.writers import open_writer

    vae = pipe_or_vae if isinstance(pipe_or_vae, nn.Module) else pipe_or_vae.vae
    if type(vae).__name__ != "AutoencoderKL":
        raise TypeError(f"decode_to_file needs an AutoencoderKL, got {type(vae).__name__}")
    latents = unpacked(latents, vae, height, width)
    rows, columns = (side * factor_of(vae) for side in latents.shape[2:])
    with right_precision(vae), open_writer(path, rows, columns) as writer:
        done = 0
        for strip in decoded_rows(vae, unscaled(latents.to(next(vae.parameters())), vae), tile):
            writer.write(pixels_of(strip))
            done += strip.shape[2]
            if progress is not None:
                progress(done, rows)
    return Path(path)


def unpacked(latents: Tensor, vae: nn.Module, height: int | None, width: int | None) -> Tensor:
    """(1, C, h, w). Raises: ValueError."""
    if latents.ndim == 3:
        if height is None or width is None:
            raise ValueError("height and width must be given with packed latents (1, tokens, C)")
        rows, columns = (side // (2 * factor_of(vae)) for side in (height, width))
        if latents.shape[1] != rows * columns:
            raise ValueError(f"latents must have {rows * columns} tokens for {height} x {width}, got "
                             f"{latents.shape[1]}")  # fmt: skip
        tokens = latents.unflatten(2, (-1, 2, 2)).unflatten(1, (rows, columns))  # (1, y, x, C, 2, 2)
        latents = tokens.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    if latents.ndim != 4 or latents.shape[0] != 1:
        raise ValueError(f"latents must be of one picture, (1, C, h, w), got {tuple(latents.shape)}")
    return latents


def unscaled(latents: Tensor, vae: nn.Module) -> Tensor:
    """As the pipelines hand latents to ``vae.decode``."""
    config = vae.config
    if getattr(config, "latents_mean", None) is not None and getattr(config, "latents_std", None) is not None:
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1).to(latents.device, latents.dtype)
            for values in (config.latents_mean, config.latents_std)
        )
        return latents * std / config.scaling_factor + mean
    return latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)


@contextmanager
def right_precision(vae: nn.Module) -> Iterator[None]:
    """float32 for a float16 VAE that would overflow (SD-XL's config says so); as it was afterwards."""
    upcast = next(vae.parameters()).dtype == torch.float16 and bool(vae.config.force_upcast)
    if upcast:
        nn.Module.to(vae, torch.float32)  # diffusers' own ``to`` warns of every cast
    try:
        yield
    finally:
        if upcast:
            nn.Module.to(vae, torch.float16)


def pixels_of(strip: Tensor) -> Any:
    """(1, 3, h, W) in [-1, 1] -> uint8 (h, W, 3), rounded as diffusers rounds."""
    shown = (strip[0] * 0.5 + 0.5).clamp_(0, 1).permute(1, 2, 0).float()
    return shown.mul_(255).round_().to(torch.uint8).cpu().numpy()
