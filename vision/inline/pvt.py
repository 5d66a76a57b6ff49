"""InLine-PVT: four stages, each with its own patches and position table; all blocks mix linearly."""

from collections.abc import Sequence

import torch
from timm.layers import calculate_drop_path_rates
from timm.models._input import update_model_input_size
from torch import Tensor, nn

from ..backbone import Backbone
from ..sizes import check_body, check_ratio
from ..weights import StateDict
from .blocks import Block
from .init import start_weights
from .mixer import InLineAttention
from .positions import Grid, grid_of_table, image_sides, resize_table
from .stage import ConvNorm, Stage


class InLinePVT(Backbone):
    """Stages at strides 4, 8, 16, 32; no final norm: mean of the tokens, classifier.

    Every stage adds its position table, resized (bilinear, corners not aligned) where its grid is another
    than the image's: each table is compared with its own stage's grid.

    Args:
        dims, depths, heads: channels, blocks and heads of each stage; heads divide dims.
        ffn_ratios: hidden width of the MLPs over dims, of each stage.
        img_size: pixels, int or (height, width), that the position tables are for.
        drop_path_rate: of the last block; it rises linearly from 0 over the blocks.
        num_classes: 0 leaves the classifier out.
        global_pool: timm's pooling names; "" (with num_classes=0) keeps the map.
        drop_rate: dropout before the classifier.
        device, dtype: of the parameters; "meta" works.
    Raises: ValueError for sizes below 1, rates outside [0, 1), stage counts that differ, heads that do not
        divide.
    """

    first_conv = "stem.conv"

    def __init__(
        self,
        dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (2, 4, 10, 16),
        ffn_ratios: Sequence[float] = (8, 8, 4, 4),
        img_size: int | tuple[int, int] = 224,
        drop_path_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        check_body(
            "InLinePVT", dims, depths, heads, ffn_ratio=1, in_chans=in_chans,
            drop_path_rate=drop_path_rate, ffn_ratios=ffn_ratios,
        )  # fmt: skip
        for ratio in ffn_ratios:
            check_ratio("InLinePVT", "ffn_ratios", ratio, dims)
        sides = image_sides("InLinePVT", img_size)
        self.in_chans = in_chans
        self.stem = ConvNorm(in_chans, dims[0], 4, 4, **dd)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        for i, dim in enumerate(dims):
            down = ConvNorm(dims[i - 1], dim, 2, 2, **dd) if i else None
            blocks = [
                Block(dim, InLineAttention(dim, heads[i], **dd), ffn_ratios[i], 1e-6, rate, **dd)
                for rate in rates[i]
            ]
            stages.append(Stage(blocks, down, dim, _grid(sides, i), **dd))
        self.stages = nn.Sequential(*stages)
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"} for i, dim in enumerate(dims)
        ]
        self.num_features = self.head_hidden_size = dims[-1]
        self.build_head(num_classes, global_pool, drop_rate, **dd)
        start_weights(self)

    def final(self, x: Tensor) -> Tensor:
        return x

    def drop_final(self) -> None:
        """There is no final norm."""

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """The position tables."""
        return {f"stages.{i}.pos_embed" for i in range(len(self.stages))}

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Resizes the position tables to images of ``img_size`` pixels, int or (height, width).

        Raises: ValueError, with the model unchanged, for sizes that are no integers of at least 1.
        """
        sides = image_sides("set_input_size", img_size)
        for i, stage in enumerate(self.stages):
            grid = _grid(sides, i)
            with torch.no_grad():
                table = resize_table(stage.pos_embed, stage.grid, grid, "bilinear")
            if table is not stage.pos_embed:
                stage.pos_embed = nn.Parameter(table, stage.pos_embed.requires_grad)
            stage.grid = grid
        update_model_input_size(self, sides)

    def fit_weights(self, weights: StateDict) -> StateDict:
        """The position tables of a file, at this model's grids."""
        fitted = dict(weights)
        for i, stage in enumerate(self.stages):
            name = f"stages.{i}.pos_embed"
            if name in fitted and fitted[name].shape != stage.pos_embed.shape:
                old = grid_of_table("InLinePVT", fitted[name].shape[1], stage.grid)
                fitted[name] = resize_table(fitted[name], old, stage.grid, "bilinear")
        return fitted


def _grid(sides: tuple[int, int], stage: int) -> Grid:
    """Tokens (down, across) in a stage, for an image of ``sides`` pixels."""
    step = 4 * 2**stage
    return -(-sides[0] // step), -(-sides[1] // step)
