"""Rectangular windows of a token image, shifted or not, folded into the batch and back.

Windows of (down, across) tokens start at (shift_down, shift_across) and wrap round the image, which is
filled up to whole windows at the right and the bottom. What wraps and what fills up is told apart by
``window_labels``: tokens of a window attend to those of their own label only; nothing is seen across an edge.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .symbols import sizes_are_symbols

Pair = tuple[int, int]


class Windows(NamedTuple):
    """How an image of ``batch`` grids is cut."""

    batch: int
    grid: Pair  # tokens of the image (down, across)
    size: Pair  # tokens of a window
    shift: Pair  # tokens that the first window starts from the corner

    @property
    def counts(self) -> Pair:
        """Windows (down, across); one where the size is the grid's own, which a symbol cannot be asked."""
        return tuple(1 if w is n else (n + w - 1) // w for n, w in zip(self.grid, self.size, strict=True))

    @property
    def filled(self) -> Pair:
        """Tokens of the image when filled up to whole windows."""
        return tuple(c * w for c, w in zip(self.counts, self.size, strict=True))

    @property
    def tokens(self) -> int:
        """Of a window."""
        return self.size[0] * self.size[1]


def shifted_windows(x: Tensor, window: int, shifted: bool) -> Windows:
    """Swin's windows of image tokens (B, h, w, C): square, clipped to the image, shifted by half a window.

    Along an axis that one window spans there is nothing to shift.
    """
    height, width = x.shape[1:3]
    if sizes_are_symbols():  # no comparison: (n - 1) // window is 0 where a window spans the axis
        shift = tuple(window // 2 * _at_most_1((n - 1) // window) if shifted else 0 for n in (height, width))
        return Windows(x.shape[0], (height, width), (window, window), shift)
    size = (min(window, height), min(window, width))
    shift = tuple(window // 2 * (shifted and n > window) for n in (height, width))
    return Windows(x.shape[0], (height, width), size, shift)


def _at_most_1(count: int) -> int:
    """min(count, 1) of a count >= 0, in arithmetic that a symbol survives."""
    return 1 - 1 // (1 + count)


def split_windows(x: Tensor, cut: Windows) -> Tensor:
    """(B, h, w, C) -> (B * windows, tokens, C), row by row in and between windows, zeros where filled up."""
    if sizes_are_symbols():
        index, inside = _sources(cut, x.device)
        rows = x.flatten(0, 2).index_select(0, index) * inside.to(x.dtype).unsqueeze(-1)
        return rows.unflatten(0, (-1, cut.tokens))
    (height, width), (full_height, full_width) = cut.grid, cut.filled
    if (height, width) != (full_height, full_width):
        x = F.pad(x, (0, 0, 0, full_width - width, 0, full_height - height))
    if any(cut.shift):
        x = torch.roll(x, (-cut.shift[0], -cut.shift[1]), (1, 2))
    rows, columns = cut.counts
    x = x.view(cut.batch, rows, cut.size[0], columns, cut.size[1], x.shape[-1]).transpose(2, 3)
    return x.reshape(-1, cut.tokens, x.shape[-1])


def join_windows(windows: Tensor, cut: Windows) -> Tensor:
    """The inverse: (B * windows, tokens, C) -> (B, h, w, C), what filled up is dropped."""
    batch, (height, width), dim = cut.batch, cut.grid, windows.shape[-1]
    if sizes_are_symbols():
        slots = _slots(cut, windows.device)
        return windows.flatten(0, 1).index_select(0, slots).unflatten(0, (batch, height, width))
    rows, columns = cut.counts
    x = windows.view(batch, rows, columns, *cut.size, dim).transpose(2, 3).reshape(batch, *cut.filled, dim)
    if any(cut.shift):
        x = torch.roll(x, cut.shift, (1, 2))
    return x[:, :height, :width]


def window_labels(cut: Windows, device: torch.device) -> Tensor:
    """(B * windows, tokens) integers: a token may attend to those of its window that have its label."""
    _, (row, column) = _places(cut, device)
    outside = (row >= cut.grid[0]) | (column >= cut.grid[1])
    wrapped = (row < cut.shift[0]).long() + 2 * (column < cut.shift[1]).long()
    return torch.where(outside, 4, wrapped).unflatten(0, (-1, cut.tokens))


def has_labels(cut: Windows) -> bool:
    """Whether any window holds more than one label; always True while sizes are symbols."""
    return sizes_are_symbols() or any(cut.shift) or cut.filled != cut.grid


def _divmod(index: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
    whole = index // divisor
    return whole, index - whole * divisor  # ONNX export has no remainder by a symbol


def _places(cut: Windows, device: torch.device) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Of every slot of every window of the batch: its image, and its (row, column) there."""
    (rows, columns), (down, across) = cut.counts, cut.size
    slot = torch.arange(cut.batch * rows * columns * cut.tokens, device=device)
    window, inner = _divmod(slot, cut.tokens)
    band, window_column = _divmod(window, columns)
    image, window_row = _divmod(band, rows)
    inner_row, inner_column = _divmod(inner, across)
    rolled = window_row * down + inner_row, window_column * across + inner_column
    place = tuple(_divmod(r + s, n)[1] for r, s, n in zip(rolled, cut.shift, cut.filled, strict=True))
    return image, place


def _sources(cut: Windows, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which token of the flat batch fills a slot, and whether the slot lies inside the image.

    Flat, because an axis as long as the number of windows would make torch.export ask whether that is 1.
    """
    image, (row, column) = _places(cut, device)
    height, width = cut.grid
    inside = (row < height) & (column < width)
    return (image * height + row.clamp(max=height - 1)) * width + column.clamp(max=width - 1), inside


def _slots(cut: Windows, device: torch.device) -> Tensor:
    """Which slot of the flat windows holds a token of the batch."""
    (height, width), (rows, columns), (down, across) = cut.grid, cut.counts, cut.size
    line, column = _divmod(torch.arange(cut.batch * height * width, device=device), width)
    image, row = _divmod(line, height)
    place = zip((row, column), cut.shift, cut.filled, strict=True)
    row, column = (_divmod(p + n - s, n)[1] for p, s, n in place)
    (window_row, inner_row), (window_column, inner_column) = _divmod(row, down), _divmod(column, across)
    window = (image * rows + window_row) * columns + window_column
    return (window * down + inner_row) * across + inner_column
