"""What RALA, MALA, NaLa and their softmax twins share: projections, local enhancement and a gate."""

import torch
from torch import Tensor, nn

from .depthwise import DepthwiseConv
from .rope import Rope


class GatedMixer(nn.Module):
    """proj((attend(q, k, v) + lepe(v)) * gate), q k v gate from one projection; lepe is a depthwise 5x5.

    A subclass defines ``attend`` on (B, N, heads, C / heads) tensors, and ``merge`` if its gate is another.
    """

    uses_rope = True
    rope_copies = 1  # how often the feature map repeats a head's channels

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.heads = heads
        self.qkvg = nn.Linear(dim, 4 * dim, **dd)
        self.lepe = DepthwiseConv(dim, 5, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rope: Rope | None) -> Tensor:
        """(B, N, heads, D) three times -> (B, N, heads, D)."""
        raise NotImplementedError

    def merge(self, y: Tensor, gate: Tensor) -> Tensor:
        """Attention plus local enhancement, and the gate: (B, H, W, C) twice -> (B, H, W, C)."""
        return y * gate

    def forward(self, x: Tensor, rope: Rope | None) -> Tensor:
        """(B, H, W, C), tables (H * W, C / heads) -> (B, H, W, C)."""
        q, k, v, gate = self.qkvg(x).chunk(4, -1)
        heads = (t.flatten(1, 2).unflatten(-1, (self.heads, -1)) for t in (q, k, v))
        y = self.attend(*heads, rope).flatten(-2).unflatten(1, x.shape[1:3])
        return self.proj(self.merge(y.to(v.dtype) + self.lepe(v), gate))
