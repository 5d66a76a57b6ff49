"""Disjoint square windows of a token image, folded into the batch and back."""

import torch
import torch.nn.functional as F
from torch import Tensor


def split_windows(x: Tensor, size: int) -> Tensor:
    """(B, H, W, C) -> (B * windows, size * size, C), zeros beyond the right and the bottom edge.

    Windows run row by row, and so do the tokens inside one. Any H, W >= 1.
    """
    if _sizes_are_symbols():
        return _gather_windows(x, size)
    height, width = x.shape[1:3]
    if torch.compiler.is_compiling() or height % size or width % size:
        x = F.pad(x, (0, 0, 0, size - 1, 0, size - 1))  # unfold drops what no window needs
    x = x.unfold(1, size, size).unfold(2, size, size)  # (B, rows, columns, C, size, size)
    return x.permute(0, 1, 2, 4, 5, 3).reshape(-1, size * size, x.shape[3])


def join_windows(windows: Tensor, size: int, shape: tuple[int, int, int]) -> Tensor:
    """The inverse: (B * windows, size * size, C) -> (B, H, W, C) for shape (B, H, W), the padding dropped."""
    batch, height, width = shape
    if _sizes_are_symbols():
        return _gather_tokens(windows, size, batch, height, width)
    rows, columns = _count(height, size), _count(width, size)
    x = windows.view(batch, rows, columns, size, size, windows.shape[-1]).transpose(2, 3)
    return x.reshape(batch, rows * size, columns * size, windows.shape[-1])[:, :height, :width]


def _sizes_are_symbols() -> bool:
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def _count(length: int, size: int) -> int:
    return (length + size - 1) // size


# While exporting or tracing, sizes are symbols. An axis as long as the number of windows of an image makes
# torch.export ask whether that number is 1, and the exported program then runs for one answer only; a trace
# keeps the answer to "does a window reach over the edge". So this form gathers by flat index from an axis
# that holds the tokens of the whole batch.


def _gather_windows(x: Tensor, size: int) -> Tensor:
    batch, height, width, _ = x.shape
    rows, columns = _count(height, size), _count(width, size)
    slot = torch.arange(batch * rows * columns * size * size, device=x.device)
    window, inner = _divmod(slot, size * size)
    band, window_column = _divmod(window, columns)
    image, window_row = _divmod(band, rows)
    inner_row, inner_column = _divmod(inner, size)
    row, column = window_row * size + inner_row, window_column * size + inner_column
    inside = ((row < height) & (column < width)).to(x.dtype).unsqueeze(-1)
    token = (image * height + row.clamp(max=height - 1)) * width + column.clamp(max=width - 1)
    return (x.flatten(0, 2).index_select(0, token) * inside).unflatten(0, (-1, size * size))


def _gather_tokens(windows: Tensor, size: int, batch: int, height: int, width: int) -> Tensor:
    rows, columns = _count(height, size), _count(width, size)
    line, column = _divmod(torch.arange(batch * height * width, device=windows.device), width)
    image, row = _divmod(line, height)
    window_row, inner_row = _divmod(row, size)
    window_column, inner_column = _divmod(column, size)
    window = (image * rows + window_row) * columns + window_column
    slot = (window * size + inner_row) * size + inner_column
    return windows.flatten(0, 1).index_select(0, slot).unflatten(0, (batch, height, width))


def _divmod(index: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
    whole = index // divisor
    return whole, index - whole * divisor  # ONNX export has no remainder by a symbol
