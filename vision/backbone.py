"""What timm expects of a backbone with a stem, stages and a pooled classifier."""

from collections.abc import Sequence

import torch
from timm.layers import create_classifier
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from .sizes import check_head
from .weights import Official, rename_official


class Backbone(nn.Module):
    """timm's interface over ``self.stem``, ``self.stages`` (nn.Sequential) and ``self.final``; maps are NCHW.

    A subclass sets ``in_chans``, ``stem``, ``stages``, ``feature_info``, ``num_features`` and
    ``head_hidden_size``, and calls ``build_head``; it defines ``final`` (what stands between the last
    stage and pooling) and ``drop_final``. ``torch.compile``, ``torch.export`` and ``torch.jit.trace`` work,
    ``torch.jit.script``, which torch deprecates, does not.
    """

    stem: nn.Module
    stages: nn.Sequential
    in_chans: int
    num_features: int
    head_hidden_size: int
    feature_info: list[dict]
    official: Official | None = None  # the family's file format, of models that were made by name
    first_conv = "stem.conv0"

    def final(self, x: Tensor) -> Tensor:
        """Last stage's output to the map that is pooled, (B, C, H, W) -> (B, num_features, H, W)."""
        raise NotImplementedError

    def drop_final(self) -> None:
        """Takes ``final`` out: it becomes the identity."""
        raise NotImplementedError

    def build_head(
        self,
        num_classes: int,
        global_pool: str,
        drop_rate: float,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Pooling, dropout and the classifier ``head``; num_classes=0 leaves the classifier out.

        Raises: ValueError, with the model unchanged, for a negative or fractional num_classes, a drop_rate
            outside [0, 1), a pooling that timm does not have, and a classifier without pooling.
        """
        check_head(type(self).__name__, num_classes, global_pool, drop_rate)
        parts = create_classifier(
            self.num_features, num_classes, global_pool, drop_rate=drop_rate, device=device, dtype=dtype
        )
        for part in parts:  # born in training mode, which the model may have left
            part.train(self.training)
        self.num_classes, self.drop_rate = num_classes, drop_rate
        self.global_pool, self.head_drop, self.head = parts

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """torch's step of ``load_state_dict``; the authors' names and shapes are taken too."""
        if self.official is not None:
            rename_official(state_dict, prefix, self.official, type(self).__name__)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The classifier, nn.Linear, or nn.Identity when there is none."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a fresh one of ``num_classes``; global_pool None keeps the pooling.

        Raises: ValueError, with the model unchanged; see ``build_head``.
        """
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        like = next(self.parameters())
        self.build_head(num_classes, pool, self.drop_rate, device=like.device, dtype=like.dtype)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """Layer groups for layer-wise learning rates: stem, stages (or blocks), neck or norm, head."""
        blocks = [
            (r"^stages\.(\d+)\.downsample", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^(?:neck|norm)\.", (99999,)),
        ]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def check_image(self, x: Tensor) -> None:
        """A ValueError that names the shape, unless x is (B, in_chans, H, W) with B, H, W > 0."""
        if x.ndim != 4 or x.shape[1] != self.in_chans or 0 in x.shape:
            raise ValueError(
                f"{type(self).__name__}: image must be (B, {self.in_chans}, H, W) with B, H, W > 0, "
                f"got {tuple(x.shape)}"
            )

    def forward_features(self, x: Tensor) -> Tensor:
        """Image (B, in_chans, H, W) -> unpooled (B, num_features, H / 32, W / 32)."""
        self.check_image(x)
        return self.final(self.stages(self.stem(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Output of ``forward_features`` -> logits (B, num_classes); pre_logits: the classifier's input."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, in_chans, H, W) -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

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
            norm: accepted for timm; stage outputs have no norm of their own.
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
                maps.append(x if output_fmt == "NCHW" else x.permute(0, 2, 3, 1))
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
