"""The definition, mini-batch by mini-batch and token by token; slow, left to autograd, in float64."""

from itertools import pairwise

import torch
from torch import Tensor

from ..checks import accumulation_dtype


def normalise(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Over the last dimension: the normalised z and 1 / standard deviation."""
    centred = z - z.mean(-1, keepdim=True)
    inverse = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    return centred * inverse, inverse


def loss_gradient(z: Tensor, target: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """d/dz of 1/2 |gamma x + beta - target|^2 with x = z normalised over the last dimension."""
    x, inverse = normalise(z, eps)
    g = gamma * (gamma * x + beta - target)
    return inverse * (g - g.mean(-1, keepdim=True) - x * (g * x).mean(-1, keepdim=True))


def mini_batch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    position_rate: Tensor,
    W: Tensor,
    b: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Tokens (T, H, D), T at most the mini-batch's size -> outputs of each (H, D), and the next W, b."""
    G = [loss_gradient(_times(x, W) + b, y - x, gamma, beta, eps) for x, y in zip(k, v, strict=True)]
    rows = []
    for i in range(len(q)):
        z = _times(q[i], W) + b
        for j in range(i + 1):
            step = (position_rate[i] * rate[j]).unsqueeze(-1)  # (H, 1)
            z = z - step * ((q[i] * k[j]).sum(-1, keepdim=True) + 1) * G[j]
        rows.append(q[i] + gamma * normalise(z, eps)[0] + beta)
    for j in range(len(q)):
        step = (position_rate[len(q) - 1] * rate[j]).unsqueeze(-1)
        W = W - (step * k[j]).unsqueeze(-1) * G[j].unsqueeze(-2)
        b = b - step * G[j]
    return rows, W, b


def _times(x: Tensor, W: Tensor) -> Tensor:
    """(H, D) by (H, D, D)."""
    return (x.unsqueeze(-1) * W).sum(-2)


def ttt_scan_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    position_rate: Tensor,
    W0: Tensor,
    b0: Tensor,
    gamma: Tensor,
    beta: Tensor,
    size: int,
    eps: float,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """All but q, k and v are float64; W0 (R, H, D, D), b0 (R, H, D)."""
    acc, dtype = accumulation_dtype(q.dtype), q.dtype
    q, k, v = q.double(), k.double(), v.double()
    edges = [(b, 0, q.shape[1]) for b in range(q.shape[0])]
    if cu_seqlens is not None:
        edges = [(0, start, stop) for start, stop in pairwise(cu_seqlens.tolist())]
    out: list[list[Tensor]] = [[] for _ in range(q.shape[0])]
    finals = []
    for r, (row, start, stop) in enumerate(edges):
        W, b = W0[r], b0[r]
        for first in range(start, stop, size):
            own = slice(first, min(first + size, stop))
            tokens = (x[row, own] for x in (q, k, v, rate))
            rows, W, b = mini_batch(*tokens, position_rate, W, b, gamma, beta, eps)
            out[row] += rows
        finals.append((W, b))
    o = torch.stack([torch.stack(rows) for rows in out]).to(dtype)
    W, b = (torch.stack(x).to(acc) for x in zip(*finals, strict=True))
    return o, (W, b)
