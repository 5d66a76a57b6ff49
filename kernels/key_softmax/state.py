"""The state of a softmax over tokens: sums that carry a maximum, and merge like log-sum-exp."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ..checks import check_like, check_shape, check_tensor, refuse
from ..linear_attn.state import sum_over


@dataclass(frozen=True, eq=False)  # by identity: == of tensors has no one answer
class KeySoftmaxState:
    """What ``key_softmax_reduce`` keeps of the tokens of R rows, in float32 (float64 for float64).

    m (R, H, D): maximum of k over the tokens, -inf where there is none; no gradient passes through it.
    s (R, H, D): sum of exp(k - m).
    S (R, H, D, E): sum of p v^T with p = exp(k - m); with tables (R, H, 2 D, E), of (p cos, p sin) v^T.

    ``a + b`` is the state of both sets of tokens together, whatever their order; ``sum(states)`` adds a list.
    m only chooses the scale of s and S: what is read, S / s and m + log s, does not depend on it, so leaving
    it out of the gradient is exact.
    """

    S: Tensor
    s: Tensor
    m: Tensor

    def __add__(self, other: "KeySoftmaxState") -> "KeySoftmaxState":
        if not isinstance(other, KeySoftmaxState):
            return NotImplemented
        check_parts("KeySoftmaxState +", "left ", self)
        check_parts("KeySoftmaxState +", "right ", other)
        if self.S.shape != other.S.shape or self.s.shape != other.s.shape:
            wanted = f"have the left side's (R, H, D or 2 D, E) = {tuple(self.S.shape)}"
            refuse("KeySoftmaxState +", "S", wanted, tuple(other.S.shape))
        if self.S.dtype != other.S.dtype or self.S.device != other.S.device:
            left, right = (f"{x.S.dtype} on {x.S.device}" for x in (self, other))
            refuse("KeySoftmaxState +", "S", f"be {left} like the left side", right)
        m = torch.maximum(self.m, other.m)
        (S1, s1), (S2, s2) = self._scaled_to(m), other._scaled_to(m)
        return KeySoftmaxState(S1 + S2, s1 + s2, m)

    def __radd__(self, other: object) -> "KeySoftmaxState":
        """What ``sum`` starts with, 0, is the empty state."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "KeySoftmaxState":
        """The state on ``device``; dtypes stay as they are."""
        parts = (x.to(device=device, non_blocking=non_blocking) for x in (self.S, self.s, self.m))
        return KeySoftmaxState(*parts)

    def values(self) -> Tensor:
        """S / s, the softmax-weighted values, shaped like S; 0 where there is no token."""
        # no clamp(min=1): where one key is all of the sum, s is 1, and there a clamp passes no gradient
        s = self.s + (self.s == 0)
        repeats = self.S.shape[2] // s.shape[2]
        return self.S / torch.cat([s] * repeats, -1).unsqueeze(-1)

    def log_sum_exp(self) -> Tensor:
        """log of the sum of exp(k), (R, H, D); -inf where there is no token."""
        return self.m + self.s.log()

    def all_reduce(self, group: "dist.ProcessGroup | None" = None) -> "KeySoftmaxState":
        """The state of all tokens of the processes in ``group`` (default: all), on each; differentiable.

        Cut the tokens of a row over processes, ``key_softmax_reduce`` each part, ``all_reduce`` and
        ``key_softmax_readout`` each part: this equals one process with all tokens, gradients too when every
        process adds its own tokens' loss. Sent are R H D numbers for the maximum, then the sizes of s and S;
        neither depends on the number of tokens. All processes must call it, with equal shapes.
        """
        check_parts("KeySoftmaxState.all_reduce", "", self)
        m = self.m.clone()
        dist.all_reduce(m, dist.ReduceOp.MAX, group=group)
        return KeySoftmaxState(*sum_over(group, *self._scaled_to(m)), m)

    def _scaled_to(self, m: Tensor) -> tuple[Tensor, Tensor]:
        """S and s as sums of exp(k - m) for a larger m."""
        factor = (self.m - finite(m)).exp()  # 0 for a side without tokens, whose m is -inf
        repeats = self.S.shape[2] // m.shape[2]
        return self.S * torch.cat([factor] * repeats, -1).unsqueeze(-1), self.s * factor


def finite(m: Tensor) -> Tensor:
    """A maximum to subtract: 0 in the place of -inf, so that no -inf - (-inf) arises."""
    return m.masked_fill(m == -torch.inf, 0)


def check_parts(op: str, prefix: str, state: KeySoftmaxState) -> None:
    """s and m fit S: shapes, device, dtypes. Errors name the part after ``prefix``."""
    check_tensor(op, f"{prefix}S", state.S, "(R, H, D or 2 D, E)", 4)
    check_tensor(op, f"{prefix}s", state.s, "(R, H, D)", 3)
    states, heads, features, _ = state.S.shape
    key_dim = state.s.shape[2]
    if features not in (key_dim, 2 * key_dim):
        wanted = f"have D or 2 D features for {prefix}s of D = {key_dim}"
        refuse(op, f"{prefix}S", wanted, features)
    for part in ("s", "m"):
        x = getattr(state, part)
        check_shape(op, prefix + part, x, "(R, H, D)", (states, heads, key_dim))
        check_like(op, prefix + part, x, f"{prefix}S", state.S, state.S.dtype)
