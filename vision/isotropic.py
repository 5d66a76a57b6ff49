"""What timm expects of a vision transformer: one token grid of stride ``patch_size`` throughout."""

from collections.abc import Sequence

import torch
from timm.layers import PatchEmbed
from timm.models._features import feature_take_indices
from timm.models.vision_transformer import global_pool_nlc
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .sizes import check_count, check_head, check_rate
from .timm_model import TimmModel

Grid = tuple[int, int]  # tokens (down, across)


class Isotropic(TimmModel):
    """timm's ``VisionTransformer`` interface over ``patch_embed``, ``blocks`` and ``norm``.

    Tokens are (B, P + N, C), P prefix tokens (a class token) before the N = h * w of the image. Every block
    is called as ``block(tokens, grid)`` with grid = (h, w), so no shape is guessed from N. Images of any size
    run: zeros fill the patches that reach over the right and the bottom edge.

    A subclass calls ``build_body`` with its blocks, ``build_head``, and defines ``prepare`` where there are
    prefix tokens or position tables.
    """

    patch_embed: PatchEmbed
    blocks: nn.ModuleList
    norm: nn.Module
    num_prefix_tokens = 0
    first_conv = "patch_embed.proj"
    feature_indices = 3  # timm's: the last three blocks

    def build_body(
        self,
        blocks: Sequence[nn.Module],
        norm: nn.Module,
        embed_dim: int,
        patch_size: int | tuple[int, int],
        in_chans: int,
        img_size: int | tuple[int, int] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Sets everything up to the final norm. ``img_size`` (pixels) is for models with position tables."""
        self.in_chans = in_chans
        self.patch_embed = PatchEmbed(
            img_size, patch_size, in_chans, embed_dim, output_fmt="NHWC", strict_img_size=False,
            dynamic_img_pad=True, device=device, dtype=dtype,
        )  # fmt: skip
        self.blocks, self.norm = nn.ModuleList(blocks), norm
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.feature_info = [
            {"num_chs": embed_dim, "reduction": self.patch_embed.feat_ratio(), "module": f"blocks.{i}"}
            for i in range(len(self.blocks))
        ]
        self.grad_checkpointing = False

    @property
    def pool_type(self) -> str:
        return self.global_pool

    def build_head(
        self,
        num_classes: int,
        global_pool: str,
        drop_rate: float,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        pools = ("token", "avg", "max", "avgmax") if self.num_prefix_tokens else ("avg", "max", "avgmax")
        check_head(type(self).__name__, num_classes, global_pool, drop_rate, pools)
        classifier = nn.Identity()
        if num_classes:
            classifier = nn.Linear(self.num_features, num_classes, device=device, dtype=dtype)
        self.num_classes, self.drop_rate, self.global_pool = num_classes, drop_rate, global_pool
        self.head_drop = nn.Dropout(drop_rate).train(self.training)
        self.head = classifier.train(self.training)

    def prepare(self, patches: Tensor) -> Tensor:
        """Patches (B, h, w, C) -> tokens (B, P + N, C): where prefix tokens and positions come in."""
        return patches.flatten(1, 2)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """Layer groups for layer-wise learning rates, as in timm: patches and tables, blocks, norm, head."""
        return {
            "stem": r"^(?:cls_token|pos_embed|patch_embed)",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        self.grad_checkpointing = enable

    def embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Image (B, in_chans, H, W) -> tokens (B, P + N, C) before the first block, and their grid."""
        self.check_image(x)
        patches = self.patch_embed(x)
        return self.prepare(patches), (patches.shape[1], patches.shape[2])

    def run_block(self, block: nn.Module, tokens: Tensor, grid: Grid) -> Tensor:
        """One block, recomputed in the backward pass where that is asked for."""
        if self.grad_checkpointing:
            return checkpoint(block, tokens, grid, use_reentrant=False)
        return block(tokens, grid)

    def forward_features(self, x: Tensor) -> Tensor:
        """Image (B, in_chans, H, W) -> normed tokens (B, P + N, C)."""
        tokens, grid = self.embed(x)
        for block in self.blocks:
            tokens = self.run_block(block, tokens, grid)
        return self.norm(tokens)

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """Tokens (B, P + N, C) -> (B, C); "avg", "max" and "avgmax" leave prefix tokens out, "" keeps all."""
        return global_pool_nlc(
            x, self.global_pool if pool_type is None else pool_type, self.num_prefix_tokens
        )

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Output of ``forward_features`` -> logits (B, num_classes); pre_logits: the classifier's input."""
        x = self.head_drop(self.pool(x))
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list | tuple[Tensor, list]:
        """Block outputs, each (B, C, h, w), or (B, N, C) with output_fmt "NLC".

        Args:
            x: image (B, in_chans, H, W).
            indices: blocks to return; an int n means the last n, None all.
            return_prefix_tokens: each entry becomes (map, prefix tokens (B, P, C)), where there are any.
            norm: the final norm on every output.
            stop_early: skip the blocks after the last one asked for.
            output_fmt: "NCHW" or "NLC".
            intermediates_only: leave out the final tokens.
        Returns: list of outputs, or (the normed tokens of the last block that ran, list of outputs).
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"forward_intermediates: output_fmt must be NCHW or NLC, got {output_fmt!r}")
        take, last_wanted = feature_take_indices(len(self.blocks), indices)
        tokens, grid = self.embed(x)
        kept = []
        for i, block in enumerate(self.blocks):
            if stop_early and i > last_wanted:
                break
            tokens = self.run_block(block, tokens, grid)
            if i in take:
                kept.append(self.norm(tokens) if norm else tokens)
        outputs = [self._unpack(entry, grid, output_fmt, return_prefix_tokens) for entry in kept]
        return outputs if intermediates_only else (self.norm(tokens), outputs)

    def _unpack(
        self, tokens: Tensor, grid: Grid, output_fmt: str, with_prefix: bool
    ) -> Tensor | tuple[Tensor, Tensor]:
        image = tokens[:, self.num_prefix_tokens :]
        if output_fmt == "NCHW":
            image = image.unflatten(1, grid).permute(0, 3, 1, 2)
        if with_prefix and self.num_prefix_tokens:
            return image, tokens[:, : self.num_prefix_tokens]
        return image

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes the blocks after the last of ``indices``, if asked norm and head; returns indices."""
        take, last_wanted = feature_take_indices(len(self.blocks), indices)
        del self.blocks[last_wanted + 1 :]
        if prune_norm:
            self.norm = nn.Identity().train(self.training)
        if prune_head:
            self.reset_classifier(0, "")
        return take


def check_isotropic(
    owner: str,
    *,
    embed_dim: int,
    depth: int,
    num_heads: int,
    mlp_ratio: float,
    patch_size: int | tuple[int, int],
    in_chans: int,
    drop_path_rate: float,
) -> None:
    """What an isotropic body is built with: a ValueError that names the argument."""
    for name, value in (("embed_dim", embed_dim), ("num_heads", num_heads), ("in_chans", in_chans)):
        check_count(owner, name, value)
    check_count(owner, "depth", depth, least=0)
    for side in patch_size if isinstance(patch_size, Sequence) else (patch_size,):
        check_count(owner, "patch_size", side)
    check_rate(owner, "drop_path_rate", drop_path_rate)
    if embed_dim % num_heads:
        raise ValueError(f"{owner}: num_heads must divide embed_dim={embed_dim}, got {num_heads}")
    if not isinstance(mlp_ratio, (int, float)) or not 1 <= embed_dim * mlp_ratio < float("inf"):
        raise ValueError(
            f"{owner}: mlp_ratio must give a hidden width of at least 1 for embed_dim={embed_dim}, "
            f"got {mlp_ratio!r}"
        )
