"""Global, non-causal linear attention: reduce tokens to a state, read the state out."""

from torch import Tensor

from .features import feature_map
from .plain import lin_readout_plain, lin_reduce_plain
from .state import LinState

__all__ = ["LinState", "feature_map", "lin_readout", "lin_reduce", "linear_attn"]


def lin_reduce(k, v, *, feature="identity", norm="sum", rope=None, weight=None, mask=None, cu_seqlens=None, backend="auto"):
    return lin_reduce_plain(k, v, weight, mask, rope, feature, norm == "sub" and rope is None)


def lin_readout(q, state, *, feature="identity", norm="sum", eps=1e-6, eps_on="mean", scale=None, cmin=None, rope=None,
                cu_seqlens=None, state_index=None, backend="auto"):
    return lin_readout_plain(q, state, rope, feature, norm, eps, eps_on, scale, cmin)


def linear_attn(q: Tensor, k: Tensor, v: Tensor, *, feature="identity", norm="sum", eps=1e-6, eps_on="mean", scale=None,
                cmin=None, rope=None, weight=None, mask=None, cu_seqlens=None, backend="auto") -> Tensor:
    state = lin_reduce(k, v, feature=feature, norm=norm, rope=rope, weight=weight, mask=mask, backend=backend)
    return lin_readout(q, state, feature=feature, norm=norm, eps=eps, eps_on=eps_on, scale=scale, cmin=cmin, rope=rope,
                       backend=backend)
