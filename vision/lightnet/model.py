"""LightNet's image models, arXiv 2405.21022, in timm's interface.

model:  patches, MD-TPE, blocks, mean over the tokens, RMSNorm, classifier
block:  x <- x + mixer(norm1 x);  x <- x + W3 (silu(W1 n) * W2 n), n = norm2 x

Sizes and the choices named in the card are ours: no configuration of the authors is published.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from timm.layers import DropPath, SwiGLU, calculate_drop_path_rates, trunc_normal_
from torch import Tensor, nn

from ...kernels.checks import check_word
from ..isotropic import Grid, Isotropic, check_isotropic
from .mixer import LightNetAttention
from .tpe import MdTpe


class LightNetBlock(nn.Module):
    """Mixer and gated feed-forward, each behind an RMSNorm and beside a residual; (B, N, C) -> (B, N, C).

    ``mixer``: keyword arguments of ``LightNetAttention``.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 8 / 3,
        drop_path: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **mixer,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.norm1 = nn.RMSNorm(dim, eps=1e-6, **dd)
        self.attn = LightNetAttention(dim, heads, **mixer, **dd)
        self.norm2 = nn.RMSNorm(dim, eps=1e-6, **dd)
        self.mlp = SwiGLU(dim, round(dim * mlp_ratio), bias=False, **dd)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), grid=grid))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


class LightNet(Isotropic):
    """An isotropic backbone of LightNet blocks; any image size, no table depends on it.

    Args:
        patch_size: pixels a side of a patch, or (height, width).
        embed_dim, depth, num_heads: channels, blocks, heads; heads divide channels.
        mlp_ratio: hidden width of the feed-forward branches over embed_dim.
        lrpe: positions in the mixers: "rotate", "cosine" or "none".
        tpe: MD-TPE behind the patches: "causal" (a token sees those above it and those left of it),
            "bidirectional" or "none".
        tpe_decay: "sigmoid" or "expexp".
        gate, gate_first, norm: of the mixers, see ``LightNetAttention``.
        drop_path_rate: of the last block; it rises linearly from 0 over the blocks.
        num_classes: 0 leaves the classifier out.
        global_pool: "avg", "max" or "avgmax"; "" (with num_classes=0) keeps the tokens.
        drop_rate: dropout before the classifier.
        device, dtype: of the parameters; "meta" works.
    Raises: ValueError for sizes below 1, rates outside [0, 1), heads that do not divide, unknown words.
    """

    def __init__(
        self,
        patch_size: int | tuple[int, int] = 16,
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        mlp_ratio: float = 8 / 3,
        lrpe: Literal["rotate", "cosine", "none"] = "rotate",
        tpe: Literal["causal", "bidirectional", "none"] = "causal",
        tpe_decay: Literal["sigmoid", "expexp"] = "sigmoid",
        gate: str = "sigmoid",
        gate_first: bool = True,
        norm: str = "layer",
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
        check_isotropic(
            "LightNet", embed_dim=embed_dim, depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio,
            patch_size=patch_size, in_chans=in_chans, drop_path_rate=drop_path_rate,
        )  # fmt: skip
        check_word("LightNet", "tpe", tpe, ("causal", "bidirectional", "none"))
        mixer = {"form": lrpe, "gate": gate, "gate_first": gate_first, "norm": norm}
        rates = calculate_drop_path_rates(drop_path_rate, depth)
        blocks = [LightNetBlock(embed_dim, num_heads, mlp_ratio, rate, **mixer, **dd) for rate in rates]
        self.build_body(blocks, nn.Identity(), embed_dim, patch_size, in_chans, **dd)
        self.pos_embed = nn.Identity()
        if tpe != "none":
            self.pos_embed = MdTpe(embed_dim, num_heads, 2, tpe_decay, tpe == "bidirectional", **dd)
        self.fc_norm = nn.RMSNorm(embed_dim, eps=1e-6, **dd)
        self.build_head(num_classes, global_pool, drop_rate, **dd)
        self.init_weights()

    def init_weights(self) -> None:
        """Truncated normal of std 0.02 and zero bias; norms and the gains of MD-TPE at 1, its decays at 0."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def prepare(self, patches: Tensor) -> Tensor:
        return self.pos_embed(patches).flatten(1, 2)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """MD-TPE's gains and decays: vectors, so timm exempts them in any case."""
        vectors = (".q", ".k", ".log_decay")
        return {n for n, _ in self.named_parameters() if n.startswith("pos_embed.") and n.endswith(vectors)}

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (B, N, C) -> mean, norm, logits (B, num_classes); pre_logits: the classifier's input.

        Without pooling there is no norm: what ``forward_features`` gives comes out.
        """
        if self.global_pool:
            x = self.fc_norm(self.pool(x))
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """As in ``Isotropic``; the norm behind the pooling goes with the head, as in timm."""
        if prune_head:
            self.fc_norm = nn.Identity().train(self.training)
        return super().prune_intermediate_layers(indices, prune_norm, prune_head)
