"""What timm expects of a backbone with a stem, stages and a pooled classifier."""

from collections.abc import Sequence

import torch
from timm.layers import create_classifier
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from .sizes import check_head
from .timm_model import TimmModel


class Backbone(TimmModel):
    """timm's interface over ``self.stem``, ``self.stages`` (nn.Sequential) and ``self.final``; maps are NCHW.

    A subclass sets ``in_chans``, ``stem``, ``stages``, ``feature_info``, ``num_features`` and
    ``head_hidden_size``, and calls ``build_head``; it defines ``final`` (what stands between the last
    stage and pooling) and ``drop_final``.
    """

    stem: nn.Module
    stages: nn.Sequential
    first_conv = "stem.conv0"
    feature_indices = (0, 1, 2, 3)
    final_is_norm = False  # whether ``final`` is what timm means by norm=True of ``forward_intermediates``

    def final(self, x: Tensor) -> Tensor:
        """Last stage's output to the map that is pooled, (B, C, H, W) -> (B, num_features, H, W)."""
        raise NotImplementedError

    def drop_final(self) -> None:
        """Takes ``final`` out: it becomes the identity."""
        raise NotImplementedError

    @property
    def pool_type(self) -> str:
        return self.global_pool.pool_type

    def build_head(
        self,
        num_classes: int,
        global_pool: str,
        drop_rate: float,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_head(type(self).__name__, num_classes, global_pool, drop_rate)
        parts = create_classifier(
            self.num_features, num_classes, global_pool, drop_rate=drop_rate, device=device, dtype=dtype
        )
        for part in parts:  # born in training mode, which the model may have left
            part.train(self.training)
        self.num_classes, self.drop_rate = num_classes, drop_rate
        self.global_pool, self.head_drop, self.head = parts

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """Layer groups for layer-wise learning rates: stem, stages (or blocks), neck or norm, head."""
        blocks = [
            (r"^stages\.(\d+)\.(?:downsample|pos_embed)", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^(?:neck|norm)\.", (99999,)),
        ]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def forward_features(self, x: Tensor) -> Tensor:
        """Image (B, in_chans, H, W) -> unpooled (B, num_features, H / 32, W / 32)."""
        self.check_image(x)
        return self.final(self.stages(self.stem(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Output of ``forward_features`` -> logits (B, num_classes); pre_logits: the classifier's input."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Stage outputs, each (B, C_i, H_i, W_i), before the next stage's downsampling.

        Args:
            x: image (B, in_chans, H, W).
            indices: stages to return; an int n means the last n, None all.
            norm: the final norm on the last stage's map, in models that end with one.
            stop_early: skip the stages after the last one asked for.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: leave out the final map.
        Returns: list of maps, or (what forward_features returns, list of maps).
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"forward_intermediates: output_fmt must be NCHW or NHWC, got {output_fmt!r}")
        self.check_image(x)
        take, last_wanted = feature_take_indices(len(self.stages), indices)
        maps = []
        x = self.stem(x)
        for i, stage in enumerate(self.stages):
            if stop_early and i > last_wanted:
                break
            x = stage(x)
            if i in take:
                normed = norm and self.final_is_norm and i == len(self.stages) - 1
                kept = self.final(x) if normed else x
                maps.append(kept if output_fmt == "NCHW" else kept.permute(0, 2, 3, 1))
        if intermediates_only:
            return maps
        return (self.final(x) if i == len(self.stages) - 1 else x), maps

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes the stages after the last of ``indices`` and what cannot follow; returns the indices."""
        take, last_wanted = feature_take_indices(len(self.stages), indices)
        prune_end = last_wanted < len(self.stages) - 1
        del self.stages[last_wanted + 1 :]
        if prune_end or prune_norm:  # the classifier is sized for what final made
            self.drop_final()
            self.num_features = self.head_hidden_size = self.feature_info[last_wanted]["num_chs"]
        if prune_end or prune_norm or prune_head:
            self.reset_classifier(0, "")
        return take
