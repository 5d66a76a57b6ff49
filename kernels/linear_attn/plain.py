"""The unchunked formulation in plain torch, left to autograd: what torch.compile and ONNX export trace."""

import torch
from torch import Tensor

from ..checks import Rope, accumulation_dtype
from .features import feature_map, rotate
from .state import LinState


def lin_reduce_plain(
    k: Tensor,
    v: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    rope: Rope | None,
    feature: str,
    centered: bool,
) -> LinState:
    acc = accumulation_dtype(k.dtype)
    k, v = k.to(acc), v.to(acc)
    if mask is None:  # the count as a tensor: a Python number would freeze N in an exported graph
        n = k.new_ones(k.shape[:2], dtype=torch.int64).sum(1)
    else:
        keep = mask[..., None, None]
        k, v, n = torch.where(keep, k, 0), torch.where(keep, v, 0), mask.sum(1)
    p = feature_map(k, feature)
    if weight is not None:
        p = p * weight.unsqueeze(-1).to(acc)
    if mask is not None:
        p = torch.where(keep, p, 0)
    s, m = p.sum(1), v.sum(1)
    if centered:
        count = n.clamp(min=1).to(acc)[:, None, None, None]
        p, v = p - s.unsqueeze(1) / count, v - m.unsqueeze(1) / count
        if mask is not None:
            p = torch.where(keep, p, 0)
    if rope is not None:
        p = rotate(p, *rope)
    S = torch.einsum("bnhd,bnhe->bhde", p, v)
    return LinState(S, s, m, n, centered)


def lin_readout_plain(
    q: Tensor,
    state: LinState,
    rope: Rope | None,
    feature: str,
    norm: str,
    eps: float,
    eps_on: str,
    scale: float | Tensor | None,
    cmin: float | None,
) -> Tensor:
    acc = accumulation_dtype(q.dtype)
    f = feature_map(q.to(acc), feature)
    count = state.n.clamp(min=1).to(acc)[:, None, None, None]
    empty = state.n[:, None, None, None] == 0  # read as 0 whatever they hold: their denominator becomes 1
    S, s, m = state.S.masked_fill(empty, 0), *(x.masked_fill(empty[..., 0], 0) for x in (state.s, state.m))
    z = torch.einsum("bnhd,bhd->bnh", f, s).unsqueeze(-1)
    u = torch.einsum("bnhd,bhde->bnhe", f if rope is None else rotate(f, *rope), S)
    if norm == "sum":
        y = u / (z + _added(eps, count, empty, eps_on == "mean"))
    elif norm == "clamp":
        y = u * (scale.to(acc).unsqueeze(-1) / z.clamp(min=cmin))
    else:
        tau, mean_v = scale / count, m.unsqueeze(1) / count
        if norm == "mag":
            z = tau * z
            y = tau * u * (1 + 1 / (z + _added(eps, count, empty, False))) - z * mean_v
        elif state.centered:
            y = tau * u + mean_v
        else:
            y = tau * u + (1 - tau * z) * mean_v
    return y.to(q.dtype)


def _added(eps: float, count: Tensor, empty: Tensor, on_mean: bool) -> Tensor:
    """What eps adds to the denominator; in the dtype of ``count`` (a where of two numbers is float32)."""
    return (eps * count if on_mean else torch.full_like(count, eps)).masked_fill(empty, 1)
