"""A VAE's tiled decode, row of tiles by row of tiles: what is finished leaves, the picture is never whole.

The same tiles, overlaps and blending as diffusers' ``AutoencoderKL.tiled_decode``, in the same order: the
rows joined are its result.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """How a latent is cut.

    Args:
        latent, stride: side of a tile and distance of two in the latent.
        kept, blend: pixels of a decoded tile's side that are its own, and pixels that are blended into it.
    """

    latent: int
    stride: int
    kept: int
    blend: int

    @classmethod
    def of(cls, vae: nn.Module, tile: int | None = None) -> Tiling:
        """For tiles of ``tile`` pixels; None: as the VAE is set. Raises: ValueError."""
        factor, overlap = factor_of(vae), vae.tile_overlap_factor
        latent = vae.tile_latent_min_size if tile is None else tile // factor
        pixels = vae.tile_sample_min_size if tile is None else tile
        if tile is not None and (tile % factor or latent < 4):
            raise ValueError(f"tile must be a multiple of {factor} pixels, {4 * factor} or more, got {tile}")
        blend = int(pixels * overlap)
        return cls(latent=latent, stride=int(latent * (1 - overlap)), kept=pixels - blend, blend=blend)


def factor_of(vae: nn.Module) -> int:
    """Pixels a latent position stands for, along a side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def set_tiling(stack: ExitStack, vae: nn.Module, tile: int) -> None:
    """Until ``stack`` closes, ``vae.decode`` works in tiles of ``tile`` pixels."""
    names = ("use_tiling", "tile_sample_min_size", "tile_latent_min_size")
    before = {name: getattr(vae, name) for name in names}

    def restore() -> None:
        for name, value in before.items():
            setattr(vae, name, value)

    latent = Tiling.of(vae, tile).latent
    stack.callback(restore)
    vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size = True, tile, latent


@torch.no_grad()
def decoded_rows(vae: nn.Module, z: Tensor, tile: int | None = None) -> Iterator[Tensor]:
    """Rows of the decoded picture, top to bottom, (B, 3, h, W); ``torch.cat(rows, 2)`` is all of it.

    Args:
        vae: an AutoencoderKL.
        z: (B, C, h, w), as ``vae.decode`` takes it.
        tile: pixels of a tile's side; None: as the VAE is set. A latent that fits one tile is decoded whole.
    """
    cut = Tiling.of(vae, tile)
    if max(z.shape[2:]) <= cut.latent:
        yield decode_tile(vae, z)
        return
    above: list[Tensor] = []  # the last rows of each tile above, blended
    for top in range(0, z.shape[2], cut.stride):
        row, kept, left = [], [], None
        for number, start in enumerate(range(0, z.shape[3], cut.stride)):
            pixels = decode_tile(vae, z[:, :, top : top + cut.latent, start : start + cut.latent])
            if above:
                blend(above[number], pixels, cut.blend, 2)
            if left is not None:
                blend(left, pixels, cut.blend, 3)
            row.append(pixels[:, :, -cut.blend :].clone() if cut.blend else pixels[:, :, :0])
            left = pixels[:, :, :, -cut.blend :].clone() if cut.blend else pixels[:, :, :, :0]
            kept.append(pixels[:, :, : cut.kept, : cut.kept].clone())
            del pixels
        above = row
        yield torch.cat(kept, 3)


def decode_tile(vae: nn.Module, z: Tensor) -> Tensor:
    if vae.post_quant_conv is not None:
        z = vae.post_quant_conv(z)
    return vae.decoder(z)


def blend(before: Tensor, tile: Tensor, extent: int, axis: int) -> None:
    """The first rows (axis 2) or columns (3) of ``tile`` fade in from the last ones of ``before``."""
    extent = min(before.shape[axis], tile.shape[axis], extent)
    if extent == 0:
        return
    shape = [1] * 4
    shape[axis] = extent
    exact = torch.promote_types(tile.dtype, torch.float32)  # as a Python number times a half tensor is exact
    share = torch.arange(extent, dtype=torch.float64, device=tile.device).view(shape) / extent
    old = before.narrow(axis, before.shape[axis] - extent, extent)
    new = tile.narrow(axis, 0, extent)
    faded = (old.to(exact) * (1 - share).to(exact)).to(tile.dtype)
    new.copy_(faded + (new.to(exact) * share.to(exact)).to(tile.dtype))
