"""Softmax attention inside shifted square windows with relative position bias: Swin's, arXiv 2103.14030."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .symbols import sizes_are_symbols
from .windows import Windows, has_labels, join_windows, shifted_windows, split_windows, window_labels


class WindowAttention(nn.Module):
    """(B, h, w, C) -> (B, h, w, C) for any h, w; windows and masks are made in every forward.

    Along an axis shorter than the window, the window is clipped and not shifted. Elsewhere zeros fill the
    last windows, and unlike in timm's Swin what fills up is not attended to.

    Args:
        window_size: tokens a side.
        shifted: windows begin half a window from the corner.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window_size: int,
        shifted: bool,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.heads, self.window_size, self.shifted = heads, window_size, shifted
        places = (2 * window_size - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(places, heads, **dd))
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        cut = shifted_windows(x, self.window_size, self.shifted)
        tokens = split_windows(x, cut)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias(cut).to(q.dtype))
        y = y.transpose(1, 2)
        if sizes_are_symbols():  # the ONNX exporter takes y to be laid out as it is not
            y = y.clone(memory_format=torch.contiguous_format)
        return join_windows(self.proj(y.flatten(2)), cut)

    def bias(self, cut: Windows) -> Tensor:
        """What is added to the scores: (1, H, T, T), or (B * windows, H, T, T) with -inf between labels."""
        table = self.relative_position_bias_table
        index = relative_index(cut.size, self.window_size, table.device)
        bias = table[index.flatten()].unflatten(0, (cut.tokens, cut.tokens)).permute(2, 0, 1).unsqueeze(0)
        if not has_labels(cut):
            return bias
        label = window_labels(cut, table.device)
        same = label.unsqueeze(1) == label.unsqueeze(2)
        return torch.where(same.unsqueeze(1), bias, -torch.inf)


def relative_index(size: tuple[int, int], window: int, device: torch.device | None = None) -> Tensor:
    """(T, T) rows of the bias table of square windows, for tokens of a window of ``size`` <= window."""
    row = torch.arange(size[0], device=device).repeat_interleave(size[1])
    column = torch.arange(size[1], device=device).repeat(size[0])
    down = row.unsqueeze(1) - row + window - 1
    across = column.unsqueeze(1) - column + window - 1
    return down * (2 * window - 1) + across
