"""InLine-DeiT: a vision transformer with a class token whose twelve blocks all mix linearly."""

import torch
from timm.layers import calculate_drop_path_rates
from timm.models._input import update_model_input_size
from torch import Tensor, nn

from ..isotropic import Isotropic, check_isotropic
from ..weights import StateDict
from .blocks import TokenBlock
from .init import start_weights
from .positions import grid_of_table, image_sides, resize_table


class InLineDeiT(Isotropic):
    """Convolution patches, class token, learned positions, blocks, LayerNorm, classifier on the class token.

    Images of any size and aspect run: the position table is resized as timm does (bicubic, antialiased) to
    the grid of the image, and in files to the grid of the model.

    Args:
        img_size: pixels, int or (height, width), that the position table is for.
        patch_size, embed_dim, depth, num_heads, mlp_ratio: as timm's; num_heads divide embed_dim.
        drop_path_rate: of the last block; it rises linearly from 0 over the blocks.
        num_classes: 0 leaves the classifier out.
        global_pool: "token" (the class token), "avg", "max", "avgmax" (of the image's tokens), or "" (with
            num_classes=0) for all tokens.
        drop_rate: dropout before the classifier.
        device, dtype: of the parameters; "meta" works.
    Raises: ValueError for sizes below 1, rates outside [0, 1), heads that do not divide.
    """

    num_prefix_tokens = 1

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        check_isotropic(
            "InLineDeiT", embed_dim=embed_dim, depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio,
            patch_size=patch_size, in_chans=in_chans, drop_path_rate=drop_path_rate,
        )  # fmt: skip
        sides = image_sides("InLineDeiT", img_size)
        rates = calculate_drop_path_rates(drop_path_rate, depth)
        blocks = [TokenBlock(embed_dim, num_heads, 1, mlp_ratio, rate, **dd) for rate in rates]
        norm = nn.LayerNorm(embed_dim, eps=1e-6, **dd)
        self.build_body(blocks, norm, embed_dim, patch_size, in_chans, self._whole(sides, patch_size), **dd)
        height, width = self.patch_embed.grid_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim, **dd))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + height * width, embed_dim, **dd))
        self.build_head(num_classes, global_pool, drop_rate, **dd)
        start_weights(self)

    @staticmethod
    def _whole(sides: tuple[int, int], patch: int) -> tuple[int, int]:
        """Sides in pixels filled up to whole patches, as images are."""
        return -(-sides[0] // patch) * patch, -(-sides[1] // patch) * patch

    def prepare(self, patches: Tensor) -> Tensor:
        grid = patches.shape[1], patches.shape[2]
        table = resize_table(self.pos_embed, self.patch_embed.grid_size, grid, "bicubic", 1)
        first = self.cls_token.expand(patches.shape[0], -1, -1)
        return torch.cat((first, patches.flatten(1, 2)), 1) + table

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """The position table and the class token."""
        return {"pos_embed", "cls_token"}

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Resizes the position table to images of ``img_size`` pixels, int or (height, width).

        Raises: ValueError, with the model unchanged, for sizes that are no integers of at least 1.
        """
        sides = image_sides("set_input_size", img_size)
        old = self.patch_embed.grid_size
        self.patch_embed.set_input_size(self._whole(sides, self.patch_embed.patch_size[0]))
        with torch.no_grad():
            table = resize_table(self.pos_embed, old, self.patch_embed.grid_size, "bicubic", 1)
        if table is not self.pos_embed:
            self.pos_embed = nn.Parameter(table, self.pos_embed.requires_grad)
        update_model_input_size(self, self.patch_embed.img_size)

    def fit_weights(self, weights: StateDict) -> StateDict:
        """The position table of a file, at this model's grid."""
        table = weights.get("pos_embed")
        if table is None or table.shape == self.pos_embed.shape:
            return weights
        grid = self.patch_embed.grid_size
        old = grid_of_table("InLineDeiT", table.shape[1] - 1, grid)
        return {**weights, "pos_embed": resize_table(table, old, grid, "bicubic", 1)}
