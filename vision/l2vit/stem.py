"""Image to L2ViT's first token grid, and the step between its stages.

The authors pad with zeros at the right and the bottom, to a multiple of 4 for the stem and of 2 between
stages, and compute on the padding: behind the first convolution it is no longer zero.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PaddedStem(nn.Module):
    """Two 3x3 convolutions of stride 2 with BatchNorm, ReLU between, LayerNorm over channels.

    (B, in_chans, H, W) -> (B, dim, ceil(H / 4), ceil(W / 4)).
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
        self.conv0 = nn.Conv2d(in_chans, dim // 2, 3, 2, 1, **dd)
        self.norm0 = nn.BatchNorm2d(dim // 2, **dd)
        self.act = nn.ReLU()
        self.conv1 = nn.Conv2d(dim // 2, dim, 3, 2, 1, **dd)
        self.norm1 = nn.BatchNorm2d(dim, **dd)
        self.token_norm = nn.LayerNorm(dim, eps=1e-5, **dd)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4)).contiguous(memory_format=torch.channels_last)
        x = self.act(self.norm0(self.conv0(x)))
        x = self.norm1(self.conv1(x))
        return self.token_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PaddedDownsample(nn.Module):
    """LayerNorm over channels, 2x2 convolution of stride 2.

    (B, dim, H, W) -> (B, out_dim, ceil(H / 2), ceil(W / 2)).
    """

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
        self.norm = nn.LayerNorm(dim, eps=1e-5, **dd)
        self.conv = nn.Conv2d(dim, out_dim, 2, 2, **dd)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if recorded or x.shape[2] % 2 or x.shape[3] % 2:
            x = F.pad(x, (0, 1, 0, 1))  # read only where a size is odd
        return self.conv(x)
