"""MD-TPE, arXiv 2405.21022: a Toeplitz positional encoding along each axis of a grid, before the first block.

    s_t = lambda_a s_{t-1} + x_t      y_t = c_a s_t      i.e. y_t = c_a sum_{j <= t} lambda_a^(t - j) x_j
    out = W norm(y)                   c_a = q_a . k_a, over the channels of head a

lambda_a in (0, 1): sigmoid(log_decay_a), or exp(-exp(log_decay_a)). Over several axes the encodings, each
with parameters of its own and with the other axes in the batch, are added; there is no residual.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import decay_scan
from ...kernels.autocast import exactly
from ...kernels.checks import accumulation_dtype, check_word

DECAYS = ("sigmoid", "expexp")
LONG_AXIS = 256  # tokens from which a scan is taken instead of the (n, n) matrices
STEEPEST = 9.2  # of log_decay with "expexp", lambda = exp(-1e4): beyond, 0 times an overflow would be NaN


def log_lambda(log_decay: Tensor, decay: str) -> Tensor:
    """log of lambda, one a head, from the parameter."""
    if decay == "sigmoid":
        return F.logsigmoid(log_decay)
    return -log_decay.clamp(max=STEEPEST).exp()


def toeplitz(x: Tensor, log_lam: Tensor, bidirectional: bool = False) -> Tensor:
    """sum_j lambda_a^(t - j) x_j by one (n, n) matrix a head; bidirectional: over all j, lambda_a^|t - j|.

    Args:
        x: (B, n, h, c).
        log_lam: (h,), x's dtype.
    Returns: (B, n, h, c).
    """
    t = torch.arange(x.shape[1], device=x.device)
    distance = t[:, None] - t
    powers = (distance.abs().to(x.dtype) * log_lam[:, None, None]).exp()
    if not bidirectional:
        powers = powers.masked_fill(distance < 0, 0)
    return torch.einsum("hts,bshc->bthc", powers, x)


def scan(x: Tensor, log_lam: Tensor, bidirectional: bool = False) -> Tensor:
    """The same as ``toeplitz`` at O(n)."""
    one = x.new_ones(*x.shape[:3], 1)
    y, _ = decay_scan(one, one, x, log_lam)
    if bidirectional:
        y = y + decay_scan(one, one, x, log_lam, reverse=True)[0] - x
    return y


class Tpe(nn.Module):
    """The encoding along one axis; (B, n, C) -> (B, n, C).

    Args:
        dim: channels C.
        heads: decays; divides dim.
        decay: "sigmoid" or "expexp", how lambda comes from ``log_decay``.
        bidirectional: every token sees both directions; otherwise only the ones before it.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        decay: str = "sigmoid",
        bidirectional: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        check_word("Tpe", "decay", decay, DECAYS)
        if heads < 1 or dim % heads:
            raise ValueError(f"Tpe: heads must divide dim={dim}, got {heads}")
        self.heads, self.decay, self.bidirectional = heads, decay, bidirectional
        self.q = nn.Parameter(torch.ones(dim, **dd))
        self.k = nn.Parameter(torch.ones(dim, **dd))
        self.log_decay = nn.Parameter(torch.zeros(heads, **dd))
        self.norm = nn.RMSNorm(dim, eps=1e-6, **dd)
        self.proj = nn.Linear(dim, dim, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        acc = accumulation_dtype(x.dtype)
        with exactly(x):
            gain = (self.q.to(acc) * self.k.to(acc)).view(self.heads, -1).sum(-1)
            values = x.to(acc).unflatten(-1, (self.heads, -1))
            recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
            mix = toeplitz if recorded or x.shape[1] <= LONG_AXIS else scan
            y = mix(values, log_lambda(self.log_decay.to(acc), self.decay), self.bidirectional)
            y = (gain[:, None] * y).flatten(-2)
            # normed before the cast: the gain is a head's width at the start, and lambda near 1 adds the axis
            y = F.rms_norm(y, self.norm.normalized_shape, self.norm.weight.to(acc), self.norm.eps)
        return self.proj(y.to(x.dtype))


class MdTpe(nn.Module):
    """The sum of an encoding along each axis; (B, n_1, .., n_m, C) -> the same shape.

    ``axes[0]`` runs along the first axis (height), ``axes[1]`` along the second. Arguments as in ``Tpe``.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        axes: int = 2,
        decay: str = "sigmoid",
        bidirectional: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.axes = nn.ModuleList(Tpe(dim, heads, decay, bidirectional, **dd) for _ in range(axes))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != len(self.axes) + 2:
            raise ValueError(f"MdTpe: x must be (B, {len(self.axes)} axes, C), got {tuple(x.shape)}")
        out = None
        for i, encoding in enumerate(self.axes):
            lines = x.movedim(i + 1, -2)  # (B, other axes, n_i, C)
            y = encoding(lines.reshape(-1, *lines.shape[-2:])).view(lines.shape).movedim(-2, i + 1)
            out = y if out is None else out + y
        return out
