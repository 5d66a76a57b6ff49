"""The definition, with the N x N mask written out, in float64; slow, left to autograd.

    s_ij = scale q_i . k_j     lse_i = log sum_{j seen by i} exp(s_ij)     y_i = sum_j exp(s_ij - lse_i) v_j

Image query i sees image key j when |dy| <= reach_y, |dx| <= reach_x and dy^2 + dx^2 <= limit; it sees every
global key and every extra key. A global query sees every key but the extra ones.
"""

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from .geometry import Geometry


def seen(g: Geometry, n_extra: int, device: torch.device) -> Tensor:
    """(Nq, Nk + n_extra) bool: which key each query sees."""
    y_q, x_q = _places(range(g.first, g.last), g.width, device)
    y_k, x_k = _places(range(g.rows), g.width, device)
    dy, dx = y_q[:, None] - y_k, x_q[:, None] - x_k
    window = (dy.abs() <= g.reach_y) & (dx.abs() <= g.reach_x) & (dy**2 + dx**2 <= g.limit)
    mask = window.new_ones(g.q_global + g.image_queries, g.k_global + g.image_keys + n_extra)
    rows = slice(g.query_image_start, g.query_image_start + g.image_queries)
    mask[rows, g.key_image_start : g.key_image_start + g.image_keys] = window
    globals_ = slice(g.query_global_start, g.query_global_start + g.q_global)
    mask[globals_, g.k_global + g.image_keys :] = False
    return mask


def _places(rows: range, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(
        torch.tensor(list(rows), dtype=torch.int64, device=device),
        torch.arange(width, device=device),
        indexing="ij",
    )
    return y.flatten(), x.flatten()


def local_attn_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra_k: Tensor | None,
    extra_v: Tensor | None,
    g: Geometry,
    scale: float,
) -> tuple[Tensor, Tensor]:
    dtype, acc = q.dtype, accumulation_dtype(q.dtype)
    n_extra = 0
    if extra_k is not None:
        k, v, n_extra = torch.cat((k, extra_k), 1), torch.cat((v, extra_v), 1), extra_k.shape[1]
    scores = scale * torch.einsum("bihd,bjhd->bhij", q.double(), k.double())
    scores = scores.masked_fill(~seen(g, n_extra, q.device), float("-inf"))
    lse = scores.logsumexp(-1)
    y = torch.einsum("bhij,bjhe->bihe", (scores - lse.unsqueeze(-1)).exp(), v.double())
    return y.to(dtype), lse.transpose(1, 2).to(acc)
