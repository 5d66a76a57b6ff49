"""Modules that both detectors use between their convolutions and mixers."""

import torch.nn.functional as F
from torch import Tensor, nn

from .voxels import Voxels


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over rows (M, C): eps 1e-3 and momentum 0.01, which the detectors mostly set.

    A batch with fewer than two rows (empty frames) has no variance: it is normalised by the running
    statistics, which it leaves as they are, in training too.
    """

    def __init__(self, channels: int, *, eps: float = 1e-3, momentum: float = 0.01) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)

    def forward(self, rows: Tensor) -> Tensor:
        if self.training and len(rows) < 2:
            return F.batch_norm(
                rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(rows)


class VoxelSequential(nn.Sequential):
    """Voxels through modules in turn: batch norms and ReLUs see the rows, every other module the Voxels."""

    def forward(self, voxels: Voxels) -> Voxels:
        for module in self:
            if isinstance(module, nn.BatchNorm1d | nn.ReLU):
                voxels = voxels.with_features(module(voxels.features))
            else:
                voxels = module(voxels)
        return voxels
