"""VAE tiling for a while: set for one rung, put back after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WORDS = ("use_tiling", "tile_sample_min_size", "tile_latent_min_size")


@contextmanager
def tiled(vae: Any, tile: int | None) -> Iterator[None]:
    """Within: the VAE codes in tiles of ``tile`` pixels a side; pictures that fit into one stay whole.

    Args:
        tile: None: nothing is changed. Tiling that is on already keeps its own tiles.
    """
    if tile is None or getattr(vae, "use_tiling", False):
        yield
        return
    before = {word: getattr(vae, word) for word in WORDS}
    vae.enable_tiling()
    vae.tile_sample_min_size, vae.tile_latent_min_size = tile, tile // pixels_a_latent(vae)
    try:
        yield
    finally:
        for word, value in before.items():
            setattr(vae, word, value)


def check_tile(vae: Any, tile: int | None, largest: int) -> None:
    """Raises: ValueError when pictures of ``largest`` pixels a side need tiles that the VAE cannot have."""
    if tile is None or largest <= tile:
        return
    missing = [word for word in WORDS if not hasattr(vae, word)]
    if missing:
        raise ValueError(f"tile must be None for {type(vae).__name__}, which has no {missing[0]}, got {tile}")
    factor = pixels_a_latent(vae)
    if not isinstance(tile, int) or tile < 1 or tile % (4 * factor):  # tiles overlap by a quarter
        raise ValueError(f"tile must be a multiple of {4 * factor} pixels, got {tile!r}")


def pixels_a_latent(vae: Any) -> int:
    return 2 ** (len(vae.config.block_out_channels) - 1)
