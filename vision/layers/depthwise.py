"""Depthwise convolutions on channels-last token images (B, H, W, C), size kept."""

import torch
from torch import Tensor, nn


class DepthwiseConv(nn.Conv2d):
    """k x k convolution of each channel alone, zero padding k // 2, bias; (B, H, W, C) -> (B, H, W, C)."""

    def __init__(
        self,
        dim: int,
        kernel_size: int = 3,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, device=device, dtype=dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        # the view is a channels_last image: no copy on either side
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ResidualDepthwiseConv(DepthwiseConv):
    """x + conv(x); (B, H, W, C) -> (B, H, W, C). The position encoding of a block."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)
