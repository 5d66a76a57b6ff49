"""The stage of InLine-PVT, -Swin and -CSwin."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .positions import Grid, resize_table
from .symbols import sizes_are_symbols


class ConvNorm(nn.Module):
    """A convolution that lessens the resolution, then LayerNorm over channels; zeros fill up the last step.

    (B, in_dim, H, W) -> (B, dim, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        kernel: int,
        stride: int,
        padding: int = 0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.fill = kernel - 2 * padding - 1  # with so much more every pixel is read, and nothing beyond
        self.conv = nn.Conv2d(in_dim, dim, kernel, stride, padding, **dd)
        self.norm = nn.LayerNorm(dim, eps=1e-5, **dd)

    def forward(self, x: Tensor) -> Tensor:
        if self.fill and fills_up(x, self.conv.stride[0]):
            x = F.pad(x, (0, self.fill, 0, self.fill))
        x = self.conv(x).permute(0, 2, 3, 1)
        return self.norm(x).permute(0, 3, 1, 2)


def fills_up(x: Tensor, step: int) -> bool:
    """Whether an image (B, C, H, W) has to be filled up to whole steps; True while sizes are symbols."""
    return sizes_are_symbols() or x.shape[2] % step != 0 or x.shape[3] % step != 0


class Stage(nn.Module):
    """Downsampling and a position table, where there are any, then blocks; (B, C_in, H, W) -> (B, C, H', W').

    Inside, tokens are (B, H, W, C); outside, the same memory is seen as a channels_last image.

    Args:
        blocks: on (B, H, W, C).
        downsample: (B, C_in, H, W) -> (B, C, H', W').
        dim: channels C, needed with ``grid``.
        grid: of the position table (1, h * w, C); None for no table.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        downsample: nn.Module | None,
        dim: int = 0,
        grid: Grid | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = nn.Identity() if downsample is None else downsample
        self.grid = grid
        table = grid and nn.Parameter(torch.zeros(1, grid[0] * grid[1], dim, device=device, dtype=dtype))
        self.register_parameter("pos_embed", table)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x).permute(0, 2, 3, 1)
        if self.pos_embed is not None:
            grid = x.shape[1], x.shape[2]
            x = x + resize_table(self.pos_embed, self.grid, grid, "bilinear").unflatten(1, grid)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing else block(x)
        return x.permute(0, 3, 1, 2)
