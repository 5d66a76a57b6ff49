"""What the necks are made of: residual blocks, convolutions back to a finer map, and a check of sizes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...kernels import ShapeError


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """The batch norm of LiDAR detectors."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class ResidualBlock(nn.Module):
    """relu(x + BN(conv(relu(BN(conv(x)))))); ``project`` puts a 1x1 convolution and a BN on the identity."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1, project: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = batch_norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = batch_norm(channels)
        self.downsample_layer: nn.Module | None = None
        if project:
            shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample_layer = nn.Sequential(shortcut, batch_norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, Y, X) -> (B, channels, Y / stride, X / stride), rounded up."""
        identity = x if self.downsample_layer is None else self.downsample_layer(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(identity + self.bn2(self.conv2(x)))


def resampling(in_channels: int, channels: int, factor: float) -> nn.Sequential:
    """Convolution, BN, ReLU to ``factor`` times as many cells an axis: transposed if >= 1, strided if 1/n."""
    if factor >= 1:
        size = round(factor)
        conv: nn.Module = nn.ConvTranspose2d(in_channels, channels, size, size, bias=False)
    else:
        size = round(1 / factor)
        conv = nn.Conv2d(in_channels, channels, size, size, bias=False)
    return nn.Sequential(conv, batch_norm(channels), nn.ReLU())


def check_map(neck: str, x: Tensor, channels: int, divisor: int) -> None:
    """Raises: ShapeError unless x is (B, channels, Y, X) with Y and X multiples of ``divisor``."""
    fits = x.ndim == 4 and x.shape[1] == channels and not (x.shape[2] % divisor or x.shape[3] % divisor)
    if not fits:
        want = f"(B, {channels}, Y, X) with Y and X multiples of {divisor}"
        raise ShapeError(f"{neck}: the map must be {want}, got {tuple(x.shape)}")


def joined(x: Tensor, levels: nn.ModuleList, ups: nn.ModuleList) -> Tensor:
    """Each level follows the one before; all that they give is brought to one size and joined."""
    maps = []
    for level, up in zip(levels, ups, strict=True):
        x = level(x)
        maps.append(up(x))
    return torch.cat(maps, dim=1)
