"""LION's 3D backbone: blocks of linear-time sequence operators, while the grid loses its height."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..voxels import Voxels
from ..windows import Cells
from .block import DOWNS, LionBlock, operators_in
from .layer import PER_LAYER, LionLayer
from .merge import Merge
from .variants import BLOCKS, LionConfig

HALVE_Z = (2, 1, 1)
PER_BLOCK = operators_in(len(DOWNS))


class LionBackbone(nn.Module):
    """Voxels (M, C) on (Z, Y, X) -> Voxels (M', C) on (ceil(Z / 16), Y, X), sorted by (b, x, y, z).

    Four blocks, each followed by a merge that halves z and generates voxels; then one shifted layer. A config
    with ``bev_windows`` merges z once more, without generation, and ends with a shifted layer for each.
    Source: LION, arXiv 2407.18232. Parameter names are those of the authors' files after ``backbone_3d.``;
    of ``dow_out`` and ``linear_bev*`` theirs are not known.
    """

    def __init__(self, config: LionConfig) -> None:
        super().__init__()
        self.config = config
        for i, (window, size) in enumerate(zip(config.windows, config.groups, strict=True)):
            block = LionBlock(
                config.channels,
                window=window,
                group_size=size,
                layer_id=i * PER_BLOCK,
                **operator_words(config),
            )
            merge = Merge(
                config.channels,
                HALVE_Z,
                generate_share=config.generate_share,
                generate_ways=config.generate_ways,
            )
            self.add_module(f"linear_{i + 1}", block)
            self.add_module(f"dow{i + 1}", merge)
        self.linear_out = shifted_layer(config, config.out_window, config.out_group, 0)
        if config.bev_windows:
            self.dow_out = Merge(config.channels, HALVE_Z)
        for i, (window, size) in enumerate(zip(config.bev_windows, config.bev_groups, strict=True)):
            self.add_module(f"linear_bev{i + 1}", shifted_layer(config, window, size, i + 1))

    def forward(self, voxels: Voxels) -> Voxels:
        """Raises: ValueError where the features are not C wide."""
        return self.stages(voxels)[-1]

    def stages(self, voxels: Voxels) -> tuple[Voxels, ...]:
        """What each of dow1 .. dow3 gives, and the output."""
        width = self.config.channels
        if voxels.features.dim() != 2 or voxels.features.shape[1] != width:
            got = tuple(voxels.features.shape)
            raise ValueError(f"voxels must have features (M, {width}), the backbone's channels, got {got}")
        stages = []
        for i in range(1, BLOCKS + 1):
            voxels, _ = getattr(self, f"dow{i}")(getattr(self, f"linear_{i}")(voxels))
            stages.append(voxels)
        voxels = self.linear_out(voxels)
        if self.config.bev_windows:
            voxels, _ = self.dow_out(voxels)
            for i in range(len(self.config.bev_windows)):
                voxels = getattr(self, f"linear_bev{i + 1}")(voxels)
        return (*stages[:-1], voxels)


def shifted_layer(config: LionConfig, window: Cells, size: int, place: int) -> LionLayer:
    """The layer at ``place`` after the blocks."""
    return LionLayer(
        config.channels,
        window=window,
        group_size=size,
        shifted=True,
        layer_id=BLOCKS * PER_BLOCK + place * PER_LAYER,
        **operator_words(config),
    )


def operator_words(config: LionConfig) -> dict[str, Any]:
    """What all layers of a backbone are given alike."""
    return {
        "operator": config.operator,
        "n_layer": BLOCKS * PER_BLOCK + PER_LAYER * (1 + len(config.bev_windows)),
        "drop_path": config.drop_path,
        "padding": config.padding,
        "operator_words": config.operator_words,
    }
