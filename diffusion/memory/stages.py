"""What each stage of a pipeline's call holds at its peak, worked out on the meta device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn

from .attention import stream_attentions
from .feed_forward import chunk_feed_forwards
from .inputs import denoiser_inputs
from .rows import rows_in_turn
from .skips import park_skips
from .tiles import Tiling, decode_tile, factor_of
from .tracker import peak_bytes

LATENTS = 10  # of a step: the latent, its double for guidance, the scheduler's float32 copies and its history


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage of a call.

    Args:
        name: "text encoders", "denoiser" or "VAE decode".
        weights: bytes of weights on the device in this stage.
        work: bytes beyond them at the peak.
    """

    name: str
    weights: int
    work: int

    @property
    def total(self) -> int:
        return self.weights + self.work


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is drawn: a latent of (height, width), batch, rows a call, prompt tokens, where."""

    latent: tuple[int, int]
    batch: int
    rows: int
    text: int
    device: str
    tokens: int


def switch_on(stack: ExitStack, model: nn.Module, measures: Sequence[str], tokens: int) -> None:
    """The denoiser's measures on ``model``, until ``stack`` closes."""
    if "feed_forward" in measures:
        chunk_feed_forwards(stack, model, tokens)
    if "attention" in measures:
        stream_attentions(stack, model, tokens)
    if "skips" in measures:
        park_skips(stack, model)
    if "rows" in measures:
        rows_in_turn(stack, model)


def denoiser_work(model: nn.Module, job: Job, measures: Sequence[str], in_pipeline: bool) -> int:
    """Bytes of one call of the skeleton ``model``, and in a pipeline of what a step keeps around it."""
    dtype = next(model.parameters()).dtype
    words = denoiser_inputs(model, job.latent, job.rows, job.text, dtype)
    with ExitStack() as stack:
        switch_on(stack, model, measures, job.tokens)
        work = peak_bytes(lambda: model(**words), job.device)
    channels = getattr(model.config, "in_channels", 4)
    return work + in_pipeline * LATENTS * 4 * job.batch * channels * job.latent[0] * job.latent[1]


def text_work(encoders: Sequence[nn.Module], job: Job) -> int:
    """Bytes of the skeletons' passes over one prompt a picture, in turn."""
    peaks = [0]
    for encoder in encoders:
        limit = getattr(encoder.config, "max_position_embeddings", None) or job.text
        ids = torch.empty(job.batch, min(job.text, limit), dtype=torch.int64, device="meta")
        peaks.append(peak_bytes(lambda encoder=encoder, ids=ids: encoder(ids), job.device))
    return max(peaks)


def vae_work(vae: nn.Module, job: Job, measure: str, tile: int) -> int:
    """Bytes of decoding with the skeleton ``vae``: ``measure`` is "", "vae_tiles" or "vae_stream"."""
    weight = next(vae.parameters())
    cut, factor = Tiling.of(vae, tile), factor_of(vae)
    whole = not measure or max(job.latent) <= cut.latent
    side = [s if whole else min(s, cut.latent) for s in job.latent]
    z = torch.empty(job.batch, vae.config.latent_channels, *side, dtype=weight.dtype, device="meta")
    peak = peak_bytes(lambda: decode_tile(vae, z), job.device)
    height, width = (factor * s for s in job.latent)
    pixel = 3 * job.batch * weight.element_size()  # bytes of one pixel of the decoder's output
    shown = 3 * 4 * job.batch * height * width  # the picture in float32, as it is converted
    if whole:
        return max(peak, pixel * height * width + 3 * shown)
    if measure == "vae_tiles":
        rows, columns = (sum(min(cut.latent, s - i) for i in range(0, s, cut.stride)) for s in job.latent)
        tiles = pixel * rows * columns * factor**2
        return max(tiles + peak, tiles + 2 * pixel * height * width, pixel * height * width + 3 * shown)
    wide = width * cut.latent // cut.stride
    edges = 2 * pixel * wide * cut.blend  # of the row of tiles above, and of this one
    strip = pixel * width * cut.kept
    return max(edges + strip + peak, edges + 2 * strip + 3 * shown * cut.kept // height)
