"""The definition, token by token, which the faster form is compared with; slow, left to autograd, in float64.

kbar_j = exp(k_j) / sum_i exp(k_i) per channel     M = sum_j P_j(kbar_j) v_j^T     y_i = M^T P_i(q_i)
P the position form of a token (none, rotate or cosine).
"""

import torch
from torch import Tensor

from .positions import Tables


def position_matrix(rope: Tables, form: str, token: int, head: int) -> Tensor:
    """P of one token and head as a matrix, (D, D) for "rotate" and (2 D, D) for "cosine"."""
    cos, sin = (table[token, head if table.shape[1] > 1 else 0].double() for table in rope)
    if form == "cosine":
        return torch.cat((torch.diag(cos), torch.diag(sin)))
    matrix = torch.diag(cos)
    for j in range(0, len(cos) - 1, 2):
        matrix[j, j + 1], matrix[j + 1, j] = -sin[j], sin[j + 1]
    return matrix


def key_softmax_attn_reference(
    q: Tensor, k: Tensor, v: Tensor, rope: Tables | None, form: str, mask: Tensor | None
) -> Tensor:
    """(B, N, H, D) twice, (B, M, H, E) -> (B, N, H, E) in q's dtype; 0 for rows without keys."""
    rows = []
    for b in range(len(q)):
        own = [j for j in range(k.shape[1]) if mask is None or mask[b, j]]
        heads = []
        for h in range(q.shape[2]):
            keys, values, queries = k[b, own, h].double(), v[b, own, h].double(), q[b, :, h].double()
            if not own:
                heads.append(queries.sum() * 0 + values.new_zeros(len(queries), v.shape[3]))
                continue
            weights = (keys - keys.detach().amax(0)).exp()
            weights = weights / weights.sum(0)
            if rope is not None:
                at = [position_matrix(rope, form, j, h) for j in range(q.shape[1])]
                weights = torch.stack([at[j] @ w for j, w in zip(own, weights, strict=True)])
                queries = torch.stack([at[i] @ x for i, x in enumerate(queries)])
            state = sum(w[:, None] * x for w, x in zip(weights, values, strict=True))
            heads.append(queries @ state)
        rows.append(torch.stack(heads, 1))
    return torch.stack(rows).to(q.dtype)
