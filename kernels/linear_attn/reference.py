"""The definition, token by token, which every faster form is compared with; slow, left to autograd.

Computed in float64 whatever the input; the results are rounded once, to what the faster forms return.

    p_j = w_j phi(k_j)     S = sum_j (R_j p_j) v_j^T     s = sum_j p_j     m = sum_j v_j     n = number of
    tokens z_i = phi(q_i) . s     u_i = S^T (R_i phi(q_i))      y_i = alpha(z_i) u_i + beta(z_i) m

B batch, N tokens, H heads, D key dim, E value dim, R states (rows of the batch, or segments).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import Rope, accumulation_dtype
from ..segments import cu_seqlens_to_ids
from .state import LinState


def phi(x: Tensor, feature: str) -> Tensor:
    return {"identity": lambda: x, "elu1": lambda: F.elu(x) + 1, "relu": lambda: F.relu(x)}[feature]()


def rotation(rope: Rope, token: int) -> Tensor:
    """The (D, D) matrix R of one token: R x turns each pair (2j, 2j + 1) of x."""
    cos, sin = rope[0][token], rope[1][token]
    matrix = torch.diag(cos)
    for j in range(0, len(cos), 2):
        matrix[j, j + 1], matrix[j + 1, j] = -sin[j], sin[j + 1]
    return matrix


def lin_reduce_reference(
    k: Tensor,
    v: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    rope: Rope | None,
    cu_seqlens: Tensor | None,
    feature: str,
    centered: bool,
) -> LinState:
    acc = accumulation_dtype(k.dtype)
    k, v, weight, *rope = (None if x is None else x.double() for x in (k, v, weight, *(rope or ())))
    rows, tokens = k.shape[:2]
    owner = (
        [[b] * tokens for b in range(rows)]
        if cu_seqlens is None
        else [cu_seqlens_to_ids(cu_seqlens).tolist()]
    )
    states = rows if cu_seqlens is None else len(cu_seqlens) - 1
    members: list[list[tuple[int, int]]] = [[] for _ in range(states)]
    for b in range(rows):
        for j in range(tokens):
            if mask is None or mask[b, j]:
                members[owner[b][j]].append((b, j))

    heads, key_dim, value_dim = k.shape[2], k.shape[3], v.shape[3]
    parts = []
    for own in members:
        zero = k.new_zeros(())
        S, s, m = (
            zero.expand(heads, key_dim, value_dim),
            zero.expand(heads, key_dim),
            zero.expand(heads, value_dim),
        )
        keys = []
        for b, j in own:
            p = phi(k[b, j], feature)
            keys.append(p if weight is None else p * weight[b, j].unsqueeze(-1))
            s, m = s + keys[-1], m + v[b, j]
        for p, (b, j) in zip(keys, own, strict=True):
            value = v[b, j]
            if centered:
                p, value = p - s / len(own), value - m / len(own)
            turned = p @ rotation(rope, j).T if rope else p
            S = S + turned.unsqueeze(-1) * value.unsqueeze(-2)
        parts.append((S, s, m))
    S, s, m = (torch.stack(x).to(acc) for x in zip(*parts, strict=True))
    n = torch.tensor([len(own) for own in members], device=k.device, dtype=torch.int64)
    return LinState(S, s, m, n, centered)


def lin_readout_reference(
    q: Tensor,
    state: LinState,
    rope: Rope | None,
    cu_seqlens: Tensor | None,
    state_index: Tensor | None,
    feature: str,
    norm: str,
    eps: float,
    eps_on: str,
    scale: float | Tensor | None,
    cmin: float | None,
) -> Tensor:
    S, s, m, *rope = (x.double() for x in (state.S, state.s, state.m, *(rope or ())))
    rows, tokens = q.shape[:2]
    if cu_seqlens is not None:
        state_index = cu_seqlens_to_ids(cu_seqlens)
    out = []
    for b in range(rows):
        for i in range(tokens):
            r = b if state_index is None else int(state_index[i])
            f = phi(q[b, i].double(), feature)
            turned = f @ rotation(rope, i).T if rope else f
            u = (turned.unsqueeze(-2) @ S[r]).squeeze(-2)
            z = (f * s[r]).sum(-1, keepdim=True)
            n = int(state.n[r])
            y = _normalised(u, z, m[r], n, state.centered, norm, eps, eps_on, scale, cmin)
            out.append(y if n else u * 0)  # an empty state is read as 0
    return torch.stack(out).view(rows, tokens, q.shape[2], -1).to(q.dtype)


def _normalised(
    u: Tensor,
    z: Tensor,
    m: Tensor,
    n: int,
    centered: bool,
    norm: str,
    eps: float,
    eps_on: str,
    scale: float | Tensor | None,
    cmin: float | None,
) -> Tensor:
    """y of one token: u (H, E), z (H, 1), m (H, E)."""
    n = max(n, 1)
    if norm == "sum":
        return u / (z + (eps * n if eps_on == "mean" else eps))
    if norm == "clamp":
        return scale.to(u).unsqueeze(-1) * u / z.clamp(min=cmin)
    tau = scale / n
    if norm == "mag":
        return tau * u * (1 + 1 / (tau * z + eps)) - tau * z * m / n
    if centered:
        return tau * u + m / n
    return tau * u + (1 - tau * z) * m / n
