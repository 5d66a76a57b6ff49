"""The state of linear attention: a monoid, so windows, tiles and ranks add."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..checks import check_like, check_shape, check_tensor, refuse


@dataclass(frozen=True, eq=False)  # by identity: == of tensors has no one answer
class LinState:
    """What ``lin_reduce`` keeps of the tokens of R rows or segments, in float32 (float64 for float64).

    S (R, H, D, E): sum of phi(k) v^T; centred, i.e. sum of (phi(k) - mean)(v - mean)^T, when ``centered``.
    s (R, H, D): sum of phi(k).  m (R, H, E): sum of v.  n (R,): token count, int64.

    ``a + b`` is the state of both sets of tokens together. Unlike the backward of the ops, ``+`` and
    ``all_reduce`` are differentiable as often as wanted. ``sum(states)`` adds a list.

    To save one, save its fields: ``torch.save(vars(state), file)``, later ``LinState(**torch.load(file))``.
    """

    S: Tensor
    s: Tensor
    m: Tensor
    n: Tensor
    centered: bool = False

    def __add__(self, other: "LinState") -> "LinState":
        if not isinstance(other, LinState):
            return NotImplemented
        check_parts("LinState +", "left ", self)
        check_parts("LinState +", "right ", other)
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

    def __radd__(self, other: object) -> "LinState":
        """What ``sum`` starts with, 0, is the empty state."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "LinState":
        """The state on ``device``; dtypes stay as they are."""
        S, s, m, n = (
            x.to(device=device, non_blocking=non_blocking) for x in (self.S, self.s, self.m, self.n)
        )
        return LinState(S, s, m, n, self.centered)

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
        check_parts("LinState.all_reduce", "", self)
        n = self.n.clone()
        dist.all_reduce(n, group=group)
        if not self.centered:
            S, s, m = sum_over(group, self.S, self.s, self.m)
            return LinState(S, s, m, n, False)
        s, m = sum_over(group, self.s, self.m)
        total = LinState(self.S, s, m, n, True)
        key_gap, value_gap = (a - b for a, b in zip(self._means(), total._means(), strict=True))
        between = self.n.to(self.S)[:, None, None, None] * key_gap.unsqueeze(-1) * value_gap.unsqueeze(-2)
        (S,) = sum_over(group, self.S + between)
        return LinState(S, s, m, n, True)


def check_parts(op: str, prefix: str, state: LinState) -> None:
    """s, m and n fit S: shapes, device, dtypes. Errors name the part after ``prefix``."""
    check_tensor(op, f"{prefix}S", state.S, "(R, H, D, E)", 4)
    states, heads, key_dim, value_dim = state.S.shape
    for part, layout, shape, dtype in (
        ("s", "(R, H, D)", (states, heads, key_dim), state.S.dtype),
        ("m", "(R, H, E)", (states, heads, value_dim), state.S.dtype),
        ("n", "(R,)", (states,), torch.int64),
    ):
        x = getattr(state, part)
        check_shape(op, prefix + part, x, layout, shape)
        check_like(op, prefix + part, x, f"{prefix}S", state.S, dtype)


def sum_over(group: "dist.ProcessGroup | None", *parts: Tensor) -> list[Tensor]:
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
