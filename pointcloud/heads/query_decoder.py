"""TransFusion's decoder layer: queries look at themselves, at the map about them, and pass a small MLP."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .local_attention import BORDERS, attend, patch_cells


class PositionEmbedding(nn.Module):
    """Positions in cells (B, 2, N) as (x, y) -> (B, width, N)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        norm = nn.BatchNorm1d(width, eps=eps, momentum=0.01)
        first, last = nn.Conv1d(2, width, 1), nn.Conv1d(width, width, 1)
        self.position_embedding_head = nn.Sequential(first, norm, nn.ReLU(), last)

    def forward(self, positions: Tensor) -> Tensor:
        return self.position_embedding_head(positions)


class QueryDecoder(nn.Module):
    """One post-norm layer: norm1(q + self), norm2(q + cross), norm3(q + linear2(relu(linear1(q)))).

    Position embeddings are added to queries, keys and values alike. Each query is a sequence of its own, so
    it attends to itself alone: what is left of that attention is its values and its output projection.
    Across, it sees the (2 ``radius`` + 1)^2 cells about its own, by the ``border`` rule of
    ``local_attention``. The batch norm of the map's position embedding sees every cell of the map once.
    Raises: ValueError for another border.
    """

    def __init__(
        self, width: int, *, heads: int, hidden: int, radius: int, border: str, norm_eps: float
    ) -> None:
        super().__init__()
        if border not in BORDERS:
            raise ValueError(f"border must be one of {BORDERS}, got {border!r}")
        self.radius, self.border = radius, border
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.self_posembed = PositionEmbedding(width, norm_eps)
        self.cross_posembed = PositionEmbedding(width, norm_eps)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, query: Tensor, at: Tensor, bev: Tensor, cell_positions: Tensor, row: Tensor, column: Tensor
    ) -> Tensor:
        """Queries (B, C, Q) at positions ``at`` (B, 2, Q) in cells (row, column) (B, Q) -> (B, C, Q).

        bev: (B, C, rows, columns).  cell_positions: (2, rows * columns), where the cells' middles are.
        """
        place = self.self_posembed(at).transpose(1, 2)  # (B, Q, C)
        query = query.transpose(1, 2)
        query = self.norm1(query + attend_to_itself(self.self_attn, query + place))
        query = self.norm2(query + self.look(query + place, bev, cell_positions, row, column))
        query = self.norm3(query + self.linear2(F.relu(self.linear1(query))))
        return query.transpose(1, 2)

    def look(self, query: Tensor, bev: Tensor, cell_positions: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Cross-attention (B, Q, C), sample by sample."""
        cell, seen = patch_cells(row.flatten(), column.flatten(), self.radius, bev.shape[2:], self.border)
        cell, seen = cell.view(*row.shape, -1), seen.view(*row.shape, -1)
        tokens = (bev.flatten(2) + self.cross_posembed(cell_positions[None])).transpose(1, 2)
        samples = zip(query, tokens, cell, seen, strict=True)
        return torch.stack([attend(self.multihead_attn, *sample) for sample in samples])


def attend_to_itself(attn: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Attention of sequences of one token, (..., C) -> (..., C): the softmax of a single logit is 1."""
    start = 2 * attn.embed_dim
    return attn.out_proj(F.linear(x, attn.in_proj_weight[start:], attn.in_proj_bias[start:]))
