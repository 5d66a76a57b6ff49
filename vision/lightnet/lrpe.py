"""MD-LRPE, arXiv 2405.21022: relative positions of linear attention on a grid of any number of axes.

    angle of a token at (i_1 .. i_m) = concatenation over the axes a of i_a theta, rows first
    angle of a prefix token          = 0

rotate   pair p of a head, channels (2p, 2p + 1), turns by angle p. theta_j = base^(-2j / (H d)) runs on
         across the heads, j = 0 .. H d / 2 - 1; every axis uses the first floor(d / 2 / m) of its head's.
         Channels that are left over stand still.
cosine   channel c has the c-th angle; (x cos, x sin) is twice as wide. theta (H, E) with E m >= d.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels.key_softmax import Tables
from ..layers.rope import cached_table

BASE = 10000.0


def rotation_frequencies(heads: int, head_dim: int, axes: int, like: Tensor) -> Tensor:
    """theta of the rotation, (heads, floor(head_dim / 2 / axes)).

    Raises: ValueError when a head is too narrow to give every axis a pair.
    """
    pairs = head_dim // 2 // axes
    if pairs < 1:
        raise ValueError(f"MD-LRPE: head_dim must be at least 2 for each of {axes} axes, got {head_dim}")
    first = torch.arange(heads, device=like.device).to(like.dtype)[:, None] * (head_dim // 2)
    j = first + torch.arange(pairs, device=like.device).to(like.dtype)
    return BASE ** (-2.0 * j / (heads * head_dim))


def cosine_frequencies(heads: int, head_dim: int, axes: int, like: Tensor) -> Tensor:
    """theta of the cosine form, (heads, E), E = ceil(head_dim / axes): base^(-j / (heads E)) across heads."""
    each = -(-head_dim // axes)
    j = torch.arange(heads * each, device=like.device).to(like.dtype)
    return (BASE ** (-j / (heads * each))).view(heads, each)


def grid_angles(grid: Sequence[int], theta: Tensor, prefix: int = 0, start: int = 0) -> Tensor:
    """(prefix + N, H, m E) for a row-major grid of m axes and theta (H, E), zeros for the prefix tokens.

    ``start`` is the index of the first row.
    """
    parts = []
    for axis, length in enumerate(grid):
        index = torch.arange(length, device=theta.device) + (start if axis == 0 else 0)
        shape = [1] * len(grid)
        shape[axis] = length
        index = index.view(shape).expand(tuple(grid)).reshape(-1)
        parts.append(index.to(theta.dtype)[:, None, None] * theta)
    return F.pad(torch.cat(parts, -1), (0, 0, 0, 0, prefix, 0))


def rotation_tables(angles: Tensor, head_dim: int) -> Tables:
    """(cos, sin), each (N, H, head_dim), from one angle a pair; the last channels stand still."""
    each = angles.repeat_interleave(2, -1)
    each = F.pad(each, (0, head_dim - each.shape[-1]))
    return each.cos(), each.sin()


def cosine_tables(angles: Tensor, head_dim: int) -> Tables:
    """(cos, sin), each (N, H, head_dim), from one angle a channel, cut to the width of the head."""
    if angles.shape[-1] < head_dim:
        raise ValueError(
            f"MD-LRPE: theta must give at least head_dim = {head_dim} angles, got {angles.shape[-1]}"
        )
    return angles[..., :head_dim].cos(), angles[..., :head_dim].sin()


def position_tables(
    grid: Sequence[int], heads: int, head_dim: int, form: str, like: Tensor, prefix: int = 0, start: int = 0
) -> Tables:
    """The tables of a grid in float32 (float64 for float64 tokens), kept per (grid, form, device, dtype).

    Args:
        grid: tokens along each axis, rows first; row-major order. May be symbolic while compiling.
        form: "rotate" or "cosine".
        like: tokens, for device and dtype.
        prefix: leading tokens that are not encoded.
        start: index of the first row, for a sequence that goes on.
    Returns: (cos, sin), each (prefix + prod(grid), heads, head_dim).
    Raises: ValueError for a head that is too narrow.
    """
    acc = torch.float64 if like.dtype == torch.float64 else torch.float32

    def build() -> Tables:
        number = torch.empty(0, device=like.device, dtype=acc)
        make, tables = _FORMS[form]
        theta = make(heads, head_dim, len(grid), number)
        return tables(grid_angles(grid, theta, prefix, start), head_dim)

    return cached_table(("lrpe", form, *grid, heads, head_dim, prefix, start), like.device, acc, build)


_FORMS = {
    "rotate": (rotation_frequencies, rotation_tables),
    "cosine": (cosine_frequencies, cosine_tables),
}
