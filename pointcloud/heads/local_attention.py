"""Cross-attention of a few queries, each to the (2 r + 1)^2 map cells about its own.

Two published rules say what a patch holds near the map's border. ``"clamp"`` (ScatterFormer): rows and
columns are moved onto the map one by one, so border cells repeat. ``"wrap"`` (LION): cells are counted along
the rows and only those before the first or after the last cell are left out, so a patch that leaves the map
on one side goes on at the other side, one row on.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...kernels import segment_gather

BORDERS = ("clamp", "wrap")
CHUNK = 1 << 15  # patch cells gathered at a time: with 128 channels, keys and values are 32 MB


def patch_cells(
    row: Tensor, column: Tensor, radius: int, shape: tuple[int, int], border: str
) -> tuple[Tensor, Tensor]:
    """Cells (K,), (K,) on a map of ``shape`` (rows, columns) -> what each sees (K, (2 r + 1)^2).

    Returns: cell = row * columns + column, int64, always on the map; and whether it is seen, bool.
    """
    rows, columns = shape
    away = torch.arange(-radius, radius + 1, device=row.device)
    down, along = (g.flatten() for g in torch.meshgrid(away, away, indexing="ij"))
    r, c = row[:, None] + down, column[:, None] + along
    if border == "clamp":
        cell = r.clamp(0, rows - 1) * columns + c.clamp(0, columns - 1)
        return cell, torch.ones_like(cell, dtype=torch.bool)
    cell = r * columns + c
    return cell.clamp(0, rows * columns - 1), (cell >= 0) & (cell < rows * columns)


def attend(attn: nn.MultiheadAttention, query: Tensor, tokens: Tensor, cell: Tensor, seen: Tensor) -> Tensor:
    """What ``attn`` gives when query k sees only the tokens ``cell[k]`` that are ``seen``.

    query: (K, C).  tokens: (cells, C), keys and values.  cell, seen: (K, P).  Returns: (K, C).
    Keys and values are projected once a token, not once a patch. Patches are gathered ``CHUNK`` cells at a
    time, and again for the gradient, so that the memory does not grow with the number of queries.
    """
    channels = attn.embed_dim
    weight, bias = attn.in_proj_weight, attn.in_proj_bias
    q = F.linear(query, weight[:channels], bias[:channels])
    table = F.linear(tokens, weight[channels:], bias[channels:])
    parts = [q[:0]]
    for some in torch.arange(len(q), device=q.device).split(max(1, CHUNK // cell.shape[1])):
        patch = (q[some], table, cell[some], seen[some], attn.num_heads)
        if torch.is_grad_enabled():
            parts.append(checkpoint(attend_to_patches, *patch, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(attend_to_patches(*patch))
    return attn.out_proj(torch.cat(parts))


def attend_to_patches(q: Tensor, table: Tensor, cell: Tensor, seen: Tensor, heads: int) -> Tensor:
    """Softmax attention of q (k, C) over rows ``cell`` (k, P) of a table (cells, 2 C) of keys and values."""
    patch = segment_gather(table, cell.flatten()).view(*cell.shape, 2, heads, q.shape[1] // heads)
    q = q.unflatten(1, (heads, -1))
    logits = torch.einsum("khd,kphd->khp", q, patch[:, :, 0]) * q.shape[-1] ** -0.5
    weights = logits.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
    return torch.einsum("khp,kphd->khd", weights, patch[:, :, 1]).flatten(1)
