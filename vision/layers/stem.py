"""Image to the first token grid, and the step between stages."""

import torch
from torch import Tensor, nn


class ConvStem(nn.Module):
    """Four 3x3 convolutions with BatchNorm, GELU after the first three.

    (B, in_chans, H, W) -> (B, dim, H/4, W/4).
    Each of the two strides halves with the ceiling, so every size is accepted.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        half = dim // 2
        plan = ((in_chans, half, 2), (half, half, 1), (half, half, 1), (half, dim, 2))
        for i, (fan_in, fan_out, stride) in enumerate(plan):
            self.add_module(f"conv{i}", nn.Conv2d(fan_in, fan_out, 3, stride, 1, **dd))
            self.add_module(f"norm{i}", nn.BatchNorm2d(fan_out, **dd))
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.act(self.norm0(self.conv0(x)))
        x = self.act(self.norm1(self.conv1(x)))
        x = self.act(self.norm2(self.conv2(x)))
        return self.norm3(self.conv3(x))


class Downsample(nn.Module):
    """3x3 convolution of stride 2 and BatchNorm; (B, dim, H, W) -> (B, out_dim, ceil(H/2), ceil(W/2))."""

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.conv = nn.Conv2d(dim, out_dim, 3, 2, 1, **dd)
        self.norm = nn.BatchNorm2d(out_dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))
