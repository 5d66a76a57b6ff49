"""From the last stage to the classifier's input."""

import torch
from torch import Tensor, nn


class Neck(nn.Module):
    """1x1 projection, BatchNorm, SiLU; (B, dim, H, W) -> (B, out_dim, H, W)."""

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
        self.proj = nn.Linear(dim, out_dim, **dd)
        self.norm = nn.BatchNorm2d(out_dim, **dd)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.act(self.norm(x))
