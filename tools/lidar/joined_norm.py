"""Batch norm over the frames of all processes (``--sync-bn``).

torch's SyncBatchNorm refuses a CPU, and its modules would not be recognised where a sequence hands rows of
voxels to batch norms (``pointcloud.layers.VoxelSequential``). These keep their class's kin.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...kernels.checks import accumulation_dtype
from ...kernels.linear_attn.state import sum_over
from ..training.joined_norm import JoinedBatchNorm2d


class JoinedBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm1d on (M, C) or (B, C, N) whose statistics are of all processes' rows.

    M may differ between processes, and be 0. With fewer than two rows in all there is no variance: rows are
    normalised by the running statistics, which stay, as ``pointcloud.layers.BatchNorm`` does.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        others = (0, 2) if x.dim() == 3 else (0,)
        shape = (-1, 1) if x.dim() == 3 else (-1,)
        y = x.to(accumulation_dtype(x.dtype))
        own = y.new_full((1,), y.numel() // self.num_features)
        total, count = sum_over(None, y.sum(others), own)
        enough = count >= 2
        mean = torch.where(enough, total / count.clamp_min(1), self.running_mean.to(y))
        y = y - mean.view(shape)
        (squares,) = sum_over(None, y.square().sum(others))
        variance = torch.where(enough, squares / count.clamp_min(1), self.running_var.to(y))
        self._follow(mean, squares, count)
        y = y * (variance + self.eps).rsqrt().view(shape)
        y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, squares: Tensor, count: Tensor) -> None:
        """Moves the running statistics, as torch does: the variance by its unbiased estimate."""
        part = torch.where(count >= 2, self.momentum, 0.0).to(self.running_mean.dtype)
        self.num_batches_tracked.add_((count >= 2).long().squeeze())
        unbiased = (squares / (count - 1).clamp_min(1)).to(self.running_var.dtype)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), part)
        self.running_var.lerp_(unbiased, part)


def join_batch_norms(model: nn.Module) -> None:
    """Every batch norm of the detector over all processes; parameters and names stay."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = JoinedBatchNorm2d  # only forward differs
        elif isinstance(module, nn.BatchNorm1d):
            module.__class__ = JoinedBatchNorm1d
