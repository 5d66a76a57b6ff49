"""The feed-forward branch with a depthwise convolution at its waist."""

import torch
from torch import Tensor, nn

from .depthwise import ResidualDepthwiseConv


class ConvFfn(nn.Module):
    """Linear dim -> hidden, exact GELU, u + DW3x3(u), Linear hidden -> dim; (B, H, W, C) -> (B, H, W, C)."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden, **dd)
        self.act = nn.GELU()
        self.dwconv = ResidualDepthwiseConv(hidden, 3, **dd)
        self.fc2 = nn.Linear(hidden, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.dwconv(self.act(self.fc1(x))))
