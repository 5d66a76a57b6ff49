"""LION's 3D backbone: blocks of linear-time sequence operators, while the grid loses its height."""

from __future__ import annotations

from torch import nn

from ..voxels import Voxels
from .block import DOWNS, LionBlock, operators_in
from .layer import PER_LAYER, LionLayer
from .merge import Merge
from .variants import LionConfig

HALVE_Z = (2, 1, 1)


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
        per_block = operators_in(len(DOWNS))
        n_layer = 4 * per_block + PER_LAYER * (1 + len(config.bev_windows))
        common = dict(
            operator=config.operator,
            n_layer=n_layer,
            drop_path=config.drop_path,
            padding=config.padding,
            operator_words=config.operator_words,
        )
        for i, (window, size) in enumerate(zip(config.windows, config.groups, strict=True)):
            block = LionBlock(
                config.channels, window=window, group_size=size, layer_id=i * per_block, **common
            )
            merge = Merge(
                config.channels,
                HALVE_Z,
                generate_share=config.generate_share,
                generate_ways=config.generate_ways,
            )
            self.add_module(f"linear_{i + 1}", block)
            self.add_module(f"dow{i + 1}", merge)
        ends = [("linear_out", config.out_window, config.out_group)]
        if config.bev_windows:
            self.dow_out = Merge(config.channels, HALVE_Z)
            bev = zip(config.bev_windows, config.bev_groups, strict=True)
            ends += [(f"linear_bev{i + 1}", window, size) for i, (window, size) in enumerate(bev)]
        for i, (name, window, size) in enumerate(ends):
            layer_id = 4 * per_block + i * PER_LAYER
            layer = LionLayer(
                config.channels, window=window, group_size=size, shifted=True, layer_id=layer_id, **common
            )
            self.add_module(name, layer)

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
        for i in range(1, 5):
            voxels, _ = getattr(self, f"dow{i}")(getattr(self, f"linear_{i}")(voxels))
            stages.append(voxels)
        voxels = self.linear_out(voxels)
        if self.config.bev_windows:
            voxels, _ = self.dow_out(voxels)
            for i in range(len(self.config.bev_windows)):
                voxels = getattr(self, f"linear_bev{i + 1}")(voxels)
        return (*stages[:-1], voxels)
