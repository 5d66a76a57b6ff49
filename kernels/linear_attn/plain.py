"""The unchunked formulation in plain torch, differentiable by autograd: what torch.compile and ONNX trace."""

import torch
from torch import Tensor

from .features import feature_map, rotate
from .state import LinState


def accumulation_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def lin_reduce_plain(
    k: Tensor, v: Tensor, weight: Tensor | None, mask: Tensor | None, rope, feature: str, centered: bool
) -> LinState:
    acc = accumulation_dtype(k)
    p = feature_map(k.to(acc), feature)
    v = v.to(acc)
    if weight is not None:
        p = p * weight.unsqueeze(-1).to(acc)
    if mask is not None:
        keep = mask[..., None, None].to(acc)
        p, v = p * keep, v * keep
        n = mask.sum(1)
    else:
        n = torch.full((k.shape[0],), 1, device=k.device) * k.new_ones(k.shape[1], dtype=torch.int64).sum()
    s, m = p.sum(1), v.sum(1)
    if rope is not None:
        p = rotate(p, *rope)
    S = torch.einsum("bnhd,bnhe->bhde", p, v)
    if centered:
        S = S - torch.einsum("bhd,bhe->bhde", s, m) / n.clamp(min=1).to(acc)[:, None, None, None]
    return LinState(S, s, m, n, centered)


def lin_readout_plain(
    q: Tensor, state: LinState, rope, feature: str, norm: str, eps: float, eps_on: str, scale, cmin
) -> Tensor:
    acc = accumulation_dtype(q)
    f = feature_map(q.to(acc), feature)
    z = torch.einsum("bnhd,bhd->bnh", f, state.s)
    u = torch.einsum("bnhd,bhde->bnhe", f if rope is None else rotate(f, *rope), state.S)
    n = state.n.clamp(min=1).to(acc)[:, None, None]
    mean_v = (state.m.unsqueeze(1) / n.unsqueeze(-1)).to(acc)
    if norm == "sum":
        y = u / (z + (eps * n if eps_on == "mean" else eps)).unsqueeze(-1)
    elif norm == "clamp":
        y = u * (scale.to(acc) / z.clamp(min=cmin)).unsqueeze(-1)
    else:
        tau = (q.shape[-1] ** -0.5 if scale is None else scale) / n
        z = (tau * z).unsqueeze(-1)
        u = tau.unsqueeze(-1) * u
        if norm == "mag":
            y = u * (1 + 1 / (z + eps)) - z * mean_v
        elif state.centered:
            y = u + mean_v
        else:
            y = u + (1 - z) * mean_v
    return y.to(q.dtype)
