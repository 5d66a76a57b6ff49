"""GroupNorm over an image that is spread over ranks: each group's exact mean and variance.

Ranks send (mean_i, M_i = sum of squared distances to mean_i) of their n_i numbers; then, over ranks,

    mean = sum n_i mean_i / n        M = sum M_i + sum n_i (mean_i - mean)^2        variance = M / n

which are sums of squares: the variance cannot come out negative, as a mean of squares less a squared mean
can.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .place import Parallel


def moments(x: Tensor, groups: int) -> Tensor:
    """(B, C, h, W) -> (2, B, groups): mean and sum of squared distances to it, in x's dtype."""
    grouped = x.reshape(x.shape[0], groups, -1)
    variance, mean = torch.var_mean(grouped, -1, correction=0)
    return torch.stack((mean, variance * grouped.shape[-1]))


def merge_moments(parts: list[Tensor], counts: list[int]) -> tuple[Tensor, Tensor]:
    """Mean and variance (B, groups) of all numbers from every part's ``moments`` and count."""
    both = torch.stack(parts)
    means, squares = both[:, 0], both[:, 1]
    weights = torch.tensor(counts, dtype=both.dtype, device=both.device).view(-1, 1, 1)
    total = weights.sum()
    mean = (weights * means).sum(0) / total
    square = squares.sum(0) + (weights * (means - mean).square()).sum(0)
    return mean, square / total


class BandGroupNorm(Parallel):
    """(B, C, own rows, W) normalised by the whole image's statistics, in float32 (float64 for float64)."""

    def forward(self, x: Tensor) -> Tensor:
        place, groups = self.place, self.num_groups
        wide = x if x.dtype == torch.float64 else x.float()
        per_row = x.shape[1] // groups * x.shape[3]
        counts = [rows * per_row for rows in place.bands().sizes()]
        mean, variance = merge_moments(place.link.gather(moments(wide, groups), place.sender("norm")), counts)
        scale = (variance + self.eps).rsqrt()
        y = (wide.unflatten(1, (groups, -1)) - mean[:, :, None, None, None]) * scale[:, :, None, None, None]
        y = y.flatten(1, 2)
        if self.affine:
            weight, bias = (p.to(y.dtype).view(-1, 1, 1) for p in (self.weight, self.bias))
            y = torch.addcmul(bias, y, weight)
        return y.to(x.dtype)
