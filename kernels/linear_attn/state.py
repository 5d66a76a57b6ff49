"""The state of linear attention: a monoid, so windows, tiles and ranks add."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..checks import refuse


@dataclass(frozen=True)
class LinState:
    """What ``lin_reduce`` keeps of the tokens of R rows or segments, in float32 (float64 for float64).

    S (R, H, D, E): sum of phi(k) v^T; centred, i.e. sum of (phi(k) - mean)(v - mean)^T, when ``centered``.
    s (R, H, D): sum of phi(k).  m (R, H, E): sum of v.  n (R,): token count, int64.

    ``a + b`` is the state of both sets of tokens together. Unlike the backward of the ops, ``+`` and
    ``all_reduce`` are differentiable as often as wanted.
    """

    S: Tensor
    s: Tensor
    m: Tensor
    n: Tensor
    centered: bool = False

    def __add__(self, other: "LinState") -> "LinState":
        if not isinstance(other, LinState):
            return NotImplemented
        if self.S.shape != other.S.shape:
            refuse(
                "LinState +",
                "S",
                f"have the left side's (R, H, D, E) = {tuple(self.S.shape)}",
                tuple(other.S.shape),
            )
        if self.S.dtype != other.S.dtype or self.S.device != other.S.device:
            left, right = (f"{x.S.dtype} on {x.S.device}" for x in (self, other))
            refuse("LinState +", "S", f"be {left} like the left side", right)
        if self.centered != other.centered:
            raise ValueError(
                f"LinState +: both must be centred or neither, got {self.centered} and {other.centered}"
            )
        S, n = self.S + other.S, self.n + other.n
        if self.centered:
            S = S + self._between(other, n)
        return LinState(S, self.s + other.s, self.m + other.m, n, self.centered)

    def _between(self, other: "LinState", n: Tensor) -> Tensor:
        """n1 n2 / (n1 + n2) (gap of key means)(gap of value means)^T; 0 where a side is empty."""
        share = self.n.to(self.S) * other.n.to(self.S) / n.clamp(min=1)
        key_gap, value_gap = (a - b for a, b in zip(self._means(), other._means(), strict=True))
        return share[:, None, None, None] * key_gap.unsqueeze(-1) * value_gap.unsqueeze(-2)

    def _means(self) -> tuple[Tensor, Tensor]:
        n = self.n.clamp(min=1).to(self.S)[:, None, None]
        return self.s / n, self.m / n

    def all_reduce(self, group: "dist.ProcessGroup | None" = None) -> "LinState":
        """The state of all tokens of the processes in ``group`` (default: all), on each; differentiable.

        Cut the tokens of a row over processes, ``lin_reduce`` each part, ``all_reduce`` and ``lin_readout``
        each part: this equals one process with all tokens, gradients too when every process adds its own
        tokens' loss. What is sent does not depend on the number of tokens: R H (D E + D + E) numbers, and R
        counts. All processes must call it, with equal R, H, D, E. A centred state takes one more, smaller
        exchange first (the means).
        """
        n = self.n.clone()
        dist.all_reduce(n, group=group)
        if not self.centered:
            S, s, m = _sum_over(group, self.S, self.s, self.m)
            return LinState(S, s, m, n, False)
        s, m = _sum_over(group, self.s, self.m)
        total = LinState(self.S, s, m, n, True)
        key_gap, value_gap = (a - b for a, b in zip(self._means(), total._means(), strict=True))
        between = self.n.to(self.S)[:, None, None, None] * key_gap.unsqueeze(-1) * value_gap.unsqueeze(-2)
        (S,) = _sum_over(group, self.S + between)
        return LinState(S, s, m, n, True)


def _sum_over(group: "dist.ProcessGroup | None", *parts: Tensor) -> list[Tensor]:
    """Each part summed over the group, in one exchange."""
    packed = _AllReduceSum.apply(torch.cat([part.flatten() for part in parts]), group)
    return [x.view_as(part) for x, part in zip(packed.split([p.numel() for p in parts]), parts, strict=True)]


class _AllReduceSum(torch.autograd.Function):
    """y = sum over processes of x; every process reads y, so dx = sum over processes of dy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: "dist.ProcessGroup | None") -> Tensor:
        ctx.group = group
        y = x.clone()
        dist.all_reduce(y, group=group)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _AllReduceSum.apply(grad.contiguous(), ctx.group), None
