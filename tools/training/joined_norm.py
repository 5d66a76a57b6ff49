"""BatchNorm over the pictures of all processes: torch's on a GPU, ours on a CPU, where torch's refuses."""

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...kernels.checks import accumulation_dtype
from ...kernels.linear_attn.state import sum_over


class JoinedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose statistics are of all processes' pictures: equal to one process with all of them.

    Two exchanges of C numbers, the second of squares around the joined mean; gradients pass through both.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        y = x.to(accumulation_dtype(x.dtype))
        own = y.new_full((1,), y.numel() // y.shape[1])
        total, count = sum_over(None, y.sum((0, 2, 3)), own)
        y = y - (total / count)[:, None, None]
        (squares,) = sum_over(None, y.square().sum((0, 2, 3)))
        self._follow(total / count, squares, count)
        y = y * (squares / count + self.eps).rsqrt()[:, None, None]
        if self.affine:
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        return y.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, squares: Tensor, count: Tensor) -> None:
        """Moves the running statistics, as torch does: the variance by its unbiased estimate."""
        if not self.track_running_stats:
            return
        self.num_batches_tracked.add_(1)
        part = 1.0 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), part)
        self.running_var.lerp_((squares / (count - 1)).to(self.running_var.dtype), part)


def join_batch_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with every BatchNorm over all processes; parameters and names stay.

    Raises: ValueError, on a CPU, for a model with other kinds of BatchNorm than BatchNorm2d.
    """
    if device.type != "cpu":
        return convert_sync_batchnorm(model)
    norms = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    other = next((name for name, m in norms.items() if type(m) is not nn.BatchNorm2d), None)
    if other is not None:
        raise ValueError(
            f"--sync-bn on a CPU takes models with torch's BatchNorm2d, {other} is a "
            f"{type(norms[other]).__name__}"
        )
    for norm in norms.values():
        norm.__class__ = JoinedBatchNorm2d  # only forward differs
    return model
