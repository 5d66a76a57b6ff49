"""CLEAR over ranks: each holds a band of image rows and a copy of the text, and gets what one process would.

Image queries see their disc: keys and values of up to ``reach`` rows above and below come from the ranks that
hold them. Text queries see all image tokens: every rank attends to its own band, and the parts merge by
their log-sum-exp. Pooled keys and values are made where their tokens are and given to everybody.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...kernels import local_attn, merge_attn
from ..clear.attention import Grid, pooled
from .bands import Bands
from .place import Parallel, Place

Pair = tuple[Tensor, Tensor]


class BandClear(Parallel):
    """The attention's class while parallel; projections, norms and rotary stay as they are."""

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, grid: Grid, text: int, proportional: bool | None = None
    ) -> Tensor:
        """(B, text + own rows x columns, heads, dim) three times -> the same, as of the whole image."""
        place, options, width = self.place, self.clear_options, grid[1]
        bands = place.bands()
        scale = self.scale_of(q.shape[-1], (bands.rows, width), text, proportional)
        image_kv = torch.stack((k[:, text:], v[:, text:])).unflatten(2, grid)  # (2, B, rows, W, heads, dim)
        reach = math.isqrt(math.ceil(options.radius**2) - 1)
        wanted = bands.widened(reach, reach)
        arriving = place.link.start_rows(image_kv, 2, bands, wanted, place.sender("halo"))
        extra = self.pooled_everywhere(image_kv) if options.pooled else None
        words = {"radius": options.radius, "n_global": text, "scale": scale}
        parts = [self.text_rows(q, k, v, grid, text, words)] if text else []
        halo_k, halo_v = arriving().flatten(2, 3)
        k, v = (torch.cat((x[:, :text], halo), 1) for x, halo in ((k, halo_k), (v, halo_v)))
        first, last = wanted[place.link.rank]
        own = tuple(row - first for row in bands.of(place.link.rank))
        rows = (last - first, width)
        y, _ = local_attn(q[:, text:], k, v, grid=rows, q_rows=own, extra_kv=extra, **words)
        return torch.cat((*parts, y), 1)

    def text_rows(self, q: Tensor, k: Tensor, v: Tensor, grid: Grid, text: int, words: dict) -> Tensor:
        """The text queries over all image tokens and the text, which rank 0 counts: (B, text, heads, dim)."""
        place = self.place
        start = 0 if place.link.rank == 0 else text
        part = local_attn(q[:, :text], k[:, start:], v[:, start:], grid=grid, q_rows=(0, 0), **words)
        messages = place.link.gather(packed(part), place.sender("text"))
        return merge_attn([unpacked(message, part) for message in messages])[0]

    def pooled_everywhere(self, image_kv: Tensor) -> Pair:
        """Pooled keys and values of the whole image, (B, P, heads, dim) each."""
        place, options = self.place, self.clear_options
        if options.pooled_tokens is not None:
            both = areas_over_ranks(image_kv, options.pooled_tokens, place)
        else:
            f, grid = options.down_factor, tuple(image_kv.shape[2:4])
            own = [pooled(x.flatten(1, 2), grid, options, self.spatial_weight) for x in image_kv]
            own = torch.stack(own).unflatten(2, (grid[0] // f, grid[1] // f))
            bands = Bands(tuple(edge // f for edge in place.bands().edges))
            both = place.link.gather_rows(own, 2, bands, place.sender("pooled"))
        keys, values = both.flatten(2, 3)
        return keys, values


def areas_over_ranks(x: Tensor, areas: Grid, place: Place) -> Tensor:
    """(2, B, own rows, W, heads, dim) -> the whole image's means over ``areas``: ranks' shares add."""
    bands = place.bands()
    a, b = bands.of(place.link.rank)
    wide = x if x.dtype == torch.float64 else x.float()
    down = area_weights(bands.rows, areas[0]).to(wide)[:, a:b]
    across = area_weights(x.shape[3], areas[1]).to(wide)
    own = torch.einsum("py,qx,tbyxhd->tbpqhd", down, across, wide)
    return place.link.sum(own, place.sender("pooled")).to(x.dtype)


def area_weights(size: int, parts: int) -> Tensor:
    """(parts, size): row i is the mean over floor(i size / parts) to ceil((i + 1) size / parts) - 1."""
    weights = torch.zeros(parts, size, dtype=torch.float64)
    for i in range(parts):
        a, b = i * size // parts, -(-(i + 1) * size // parts)
        weights[i, a:b] = 1 / (b - a)
    return weights


def packed(part: Pair) -> Tensor:
    """(y, lse) as one run of bytes: y in its own dtype, lse in float32 or float64."""
    return torch.cat([x.contiguous().view(torch.uint8).flatten() for x in part])


def unpacked(message: Tensor, like: Pair) -> Pair:
    """The pair that another rank packed, of the shapes and dtypes of this rank's."""
    sizes = [x.numel() * x.element_size() for x in like]
    y, lse = (
        part.clone().view(x.dtype).view(x.shape) for part, x in zip(message.split(sizes), like, strict=True)
    )
    return y, lse
