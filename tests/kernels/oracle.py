"""Linear attention as an N x N matrix of token-to-token weights in float64: no state, no shared code."""

import torch
from torch import Tensor


def phi(x: Tensor, feature: str) -> Tensor:
    if feature == "elu1":
        return torch.where(x > 0, x + 1, torch.exp(torch.where(x > 0, 0, x)))
    return torch.where(x > 0, x, 0) if feature == "relu" else x


def turned(x: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
    """(N, H, D) rotated by (N, D) tables: each pair (a, b) -> (a cos - b sin, b cos + a sin)."""
    if rope is None:
        return x
    cos, sin = (t.double()[:, None] for t in rope)
    out = torch.zeros_like(x)
    for j in range(0, x.shape[-1], 2):
        a, b = x[..., j], x[..., j + 1]
        out[..., j] = a * cos[..., j] - b * sin[..., j]
        out[..., j + 1] = b * cos[..., j + 1] + a * sin[..., j + 1]
    return out


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    feature: str = "identity",
    norm: str = "sum",
    eps: float = 1e-6,
    eps_on: str = "mean",
    scale: float | Tensor | None = None,
    cmin: float | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    q, k, v = (x.double() for x in (q, k, v))
    tokens = q.shape[1]
    segment = torch.zeros(tokens, dtype=torch.long)
    if cu_seqlens is not None:
        segment = (torch.arange(tokens)[:, None] >= cu_seqlens[1:].long()).sum(1)
    same = (segment[:, None] == segment).double()
    rows = []
    for b in range(q.shape[0]):
        seen = same if mask is None else same * mask[b].double()
        f, p = phi(q[b], feature), phi(k[b], feature)
        if weight is not None:
            p = p * weight[b].double().unsqueeze(-1)
        plain = torch.einsum("ihd,jhd->ijh", f, p) * seen[..., None]
        dots = torch.einsum("ihd,jhd->ijh", turned(f, rope), turned(p, rope)) * seen[..., None]
        rows.append(_row(dots, plain.sum(1, keepdim=True), seen, v[b], norm, eps, eps_on, scale, cmin))
    return torch.stack(rows)


def _row(
    dots: Tensor,
    z: Tensor,
    seen: Tensor,
    v: Tensor,
    norm: str,
    eps: float,
    eps_on: str,
    scale: float | Tensor | None,
    cmin: float | None,
) -> Tensor:
    """dots (N, N, H), z (N, 1, H), seen (N, N), v (N, H, E) -> (N, H, E); queries that see nothing read 0."""
    n = seen.sum(1)[:, None, None]
    some, count = n > 0, n.clamp(min=1)
    mean = seen[..., None] / count
    if norm == "sum":
        weights = dots / torch.where(some, z + (eps * count if eps_on == "mean" else eps), 1)
    elif norm == "clamp":
        weights = scale.double() * dots / z.clamp(min=cmin)
    else:
        tau = scale / count
        if norm == "mag":
            weights = tau * dots * (1 + 1 / torch.where(some, tau * z + eps, 1)) - tau * z * mean
        else:
            weights = tau * dots + (1 - tau * z) * mean
    return torch.einsum("ijh,jhe->ihe", weights, v)
