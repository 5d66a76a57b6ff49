"""Cross-window interaction and feed-forward in one module: depthwise convolutions carry over window borders.

    x = BN(f)                       the residual stream itself becomes the normalised one
    x = x + [conv_3x3x3(x_0), conv_along_x(x_1), conv_along_y(x_2), x_3]    four equal groups of channels
    y = x + fc2(relu(fc1(BN2(x))))

The last group has no convolution, so it doubles, as in the authors' code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..layers import BatchNorm
from ..sparse import DepthwiseSubmanifoldConv3d
from ..voxels import Voxels

GROUPS = 4


class CrossWindowFeedForward(nn.Module):
    """Voxels -> Voxels of the same cells and width.

    length: cells of the convolutions along x and y, odd; one more than the window, so that they reach over
    its borders. hidden: width between fc1 and fc2, in units of channels.
    """

    def __init__(self, channels: int, length: int, *, hidden: int = 2) -> None:
        super().__init__()
        if channels % GROUPS:
            raise ValueError(f"channels must be a multiple of {GROUPS}, got {channels}")
        if length % 2 == 0 or length < 1:
            raise ValueError(f"length must be an odd number of cells >= 1, got {length}")
        group = channels // GROUPS
        self.bn = BatchNorm(channels)
        self.conv_k = DepthwiseSubmanifoldConv3d(group, (3, 3, 3))
        self.conv_h = DepthwiseSubmanifoldConv3d(group, (1, 1, length))
        self.conv_w = DepthwiseSubmanifoldConv3d(group, (1, length, 1))
        self.bn2 = BatchNorm(channels)
        self.fc1 = nn.Linear(channels, hidden * channels)
        self.fc2 = nn.Linear(hidden * channels, channels)

    def forward(self, voxels: Voxels) -> Voxels:
        rows = self.bn(voxels.features)
        *groups, last = rows.chunk(GROUPS, 1)
        convolutions = (self.conv_k, self.conv_h, self.conv_w)
        mixed = [conv.convolved(voxels, x) for conv, x in zip(convolutions, groups, strict=True)]
        rows = rows + torch.cat([*mixed, last], 1)
        return voxels.with_features(rows + self.fc2(F.relu(self.fc1(self.bn2(rows)))))
