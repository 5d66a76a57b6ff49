"""A LION block: layers on voxels that get coarser twice, and finer again."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ..voxels import Voxels
from ..windows import Cells
from .grouping import Padding
from .layer import PER_LAYER, LionLayer
from .merge import Merge, expand
from .position import PositionEmbedding

DOWNS: tuple[Cells, ...] = ((2, 2, 2), (2, 2, 2))


class LionBlock(nn.Module):
    """Voxels -> Voxels with the same cells, in the same order.

    Going down: position embedding, LION layer, merge. Going up: LION layer, expand to the voxels of the way
    down, LN. Window and group size are in cells and voxels of each resolution. Every other layer is shifted.
    downs: how each merge divides (z, y, x).  Others: as ``LionLayer``'s; the block has 4 operators a merge.
    """

    def __init__(
        self,
        channels: int,
        *,
        operator: str,
        window: Cells,
        group_size: int,
        layer_id: int = 0,
        n_layer: int | None = None,
        drop_path: float = 0.0,
        padding: Padding = "repeat",
        operator_words: Mapping[str, object] | None = None,
        downs: tuple[Cells, ...] = DOWNS,
    ) -> None:
        super().__init__()
        depth = len(downs)

        def layers(first: int) -> nn.ModuleList:
            return nn.ModuleList(
                LionLayer(
                    channels,
                    operator=operator,
                    window=window,
                    group_size=group_size,
                    shifted=i % 2 == 1,
                    layer_id=first + i * PER_LAYER,
                    n_layer=operators_in(depth) if n_layer is None else n_layer,
                    drop_path=drop_path,
                    padding=padding,
                    operator_words=operator_words,
                )
                for i in range(depth)
            )

        self.encoder = layers(layer_id)
        self.downsample_list = nn.ModuleList(Merge(channels, down) for down in downs)
        self.pos_emb_list = nn.ModuleList(PositionEmbedding(channels) for _ in downs)
        self.decoder = layers(layer_id + depth * PER_LAYER)
        self.decoder_norm = nn.ModuleList(nn.LayerNorm(channels) for _ in downs)

    def forward(self, voxels: Voxels) -> Voxels:
        passed = []
        for position, layer, merge in zip(self.pos_emb_list, self.encoder, self.downsample_list, strict=True):
            fine = layer(voxels.with_features(voxels.features + position(voxels)))
            voxels, parent = merge(fine)
            passed.append((fine, parent))
        for layer, norm in zip(self.decoder, self.decoder_norm, strict=True):
            voxels = expand(layer(voxels), *passed.pop())
            voxels = voxels.with_features(norm(voxels.features))
        return voxels


def operators_in(depth: int) -> int:
    """Sequence operators of a block with ``depth`` merges."""
    return 2 * depth * PER_LAYER
