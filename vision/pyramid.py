"""The skeleton of RAVLT, MALA and NaLaFormer: stem, stages of strides 4, 8, 16, 32, neck, classifier.

    block:  x <- x + pos1(x);  x <- x + ls1 mixer(norm1 x);  [x <- x + pos2(x)];  x <- x + ls2 ffn(norm2 x)

Upstream's stages 0 and 1 mix linearly and stages 2 and 3 by softmax; ``mixers`` changes that stage by stage.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from timm.layers import DropPath, calculate_drop_path_rates
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .backbone import Backbone
from .layers import (
    ConvFfn,
    ConvStem,
    Downsample,
    LayerScale,
    Neck,
    ResidualDepthwiseConv,
    Rope,
    check_mixer_name,
    make_mixer,
    rope_table,
)
from .sizes import check_body, check_count

HYBRID = ("linear", "linear", "softmax", "softmax")  # as published


class Block(nn.Module):
    """Position convolution, mixer branch, (position convolution,) feed-forward branch on (B, H, W, C)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        mixer: str,
        ffn_ratio: float,
        layer_scale: float | None,
        second_pos: bool,
        drop_path: float,
        **dd,
    ) -> None:
        super().__init__()
        self.pos1 = ResidualDepthwiseConv(dim, 3, **dd)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, **dd)
        self.attn = make_mixer(mixer, dim, heads, **dd)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale, **dd)
        self.pos2 = ResidualDepthwiseConv(dim, 3, **dd) if second_pos else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, **dd)
        self.ffn = ConvFfn(dim, int(dim * ffn_ratio), **dd)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale, **dd)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, rope: Rope | None = None) -> Tensor:
        x = self.pos1(x)
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), rope)))
        x = self.pos2(x)
        return x + self.drop_path(self.ls2(self.ffn(self.norm2(x))))


class Stage(nn.Module):
    """Downsampling, if any, then blocks on one token grid; (B, C_in, H, W) -> (B, C, H', W').

    Inside, tokens are (B, H, W, C); outside, the same memory is seen as a channels_last image.
    """

    def __init__(
        self, in_dim: int | None, dim: int, heads: int, drop_path: Sequence[float], device, dtype, **block
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.head_dim = dim // heads
        self.grad_checkpointing = False
        self.downsample = nn.Identity() if in_dim is None else Downsample(in_dim, dim, **dd)
        self.blocks = nn.ModuleList(Block(dim, heads, drop_path=p, **block, **dd) for p in drop_path)
        self.rope_copies = 0  # no tables
        if len(self.blocks) and self.blocks[0].attn.uses_rope:
            self.rope_copies = getattr(self.blocks[0].attn, "rope_copies", 1)
            if self.head_dim % 4:
                raise ValueError(
                    f"Pyramid: dims / heads must be a multiple of 4 with rotary mixers, got {dim} / {heads}"
                )

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x).permute(0, 2, 3, 1)
        height, width = x.shape[1:3]
        rope = None
        if self.rope_copies:
            rope = rope_table(height, width, self.head_dim, x.device, x.dtype, self.rope_copies)
        for block in self.blocks:
            x = checkpoint(block, x, rope, use_reentrant=False) if self.grad_checkpointing else block(x, rope)
        return x.permute(0, 3, 1, 2)


class Pyramid(Backbone):
    """A four-stage backbone with a mixer per stage, in timm's interface.

    Args:
        dims, depths, heads: channels, blocks and heads of each stage; heads divide dims.
        ffn_ratio: hidden width of the feed-forward branches over dims.
        neck_dim: channels after the neck, the classifier's input.
        layer_scale: initial value for each stage; None or False (timm drops None) for no layer scale.
        linear_mixer, softmax_mixer: what "linear" and "softmax" in ``mixers`` stand for.
        second_pos: a second position convolution between the branches of a block (NaLaFormer).
        linear_init: "trunc_normal" (std 0.02, bias 0), or "default" to leave Linear layers other than the
            head as torch makes them.
        mixers: one name for all stages or one a stage: "linear", "softmax" or any registered mixer.
        drop_path_rate: of the last block; it rises linearly from 0 over the blocks.
        num_classes: 0 leaves the classifier out.
        global_pool: timm's pooling names; "" (with num_classes=0) keeps the map.
        drop_rate: dropout before the classifier.
        device, dtype: of the parameters; "meta" works.
    Raises: ValueError for sizes below 1, rates outside [0, 1), stage counts that differ, heads that do not
        divide, unknown mixers.
    """

    def __init__(
        self,
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_ratio: float = 3.5,
        neck_dim: int = 1024,
        layer_scale: Sequence[float] | Literal[False] | None = (1.0, 1.0, 1.0, 1.0),
        linear_mixer: str = "rala",
        softmax_mixer: str = "softmax",
        second_pos: bool = False,
        linear_init: str = "trunc_normal",
        mixers: str | Sequence[str] = HYBRID,
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
            "Pyramid", dims, depths, heads, ffn_ratio=ffn_ratio, in_chans=in_chans,
            drop_path_rate=drop_path_rate, **({"layer_scale": layer_scale} if layer_scale else {}),
        )  # fmt: skip
        check_count("Pyramid", "neck_dim", neck_dim)
        names = resolve_mixers(mixers, len(dims), linear_mixer, softmax_mixer)
        scales = layer_scale or [None] * len(dims)
        if linear_init not in ("trunc_normal", "default"):
            raise ValueError(f"Pyramid: linear_init must be 'trunc_normal' or 'default', got {linear_init!r}")
        self.in_chans, self.linear_init, self.mixers = in_chans, linear_init, names

        self.stem = ConvStem(in_chans, dims[0], **dd)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        before = (None, *dims[:-1])
        self.stages = nn.Sequential(
            *(
                Stage(before[i], dims[i], heads[i], rates[i], mixer=names[i], layer_scale=scales[i],
                      ffn_ratio=ffn_ratio, second_pos=second_pos, **dd)
                for i in range(len(dims))
            )
        )  # fmt: skip
        self.neck = Neck(dims[-1], neck_dim, **dd)
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"} for i, dim in enumerate(dims)
        ]
        self.num_features = self.head_hidden_size = neck_dim
        self.build_head(num_classes, global_pool, drop_rate, **dd)
        self.init_weights()

    def init_weights(self) -> None:
        """Truncated normal of std 0.02 and zero bias, as the authors start; norms stay at 1 and 0."""
        for name, module in self.named_modules():
            linear = isinstance(module, nn.Linear)
            if isinstance(module, nn.Conv2d) or (
                linear and (name == "head" or self.linear_init == "trunc_normal")
            ):
                # upstream cuts at +-2, a hundred deviations out: the cut never acts
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Layer scales: vectors here, so timm exempts them anyhow (upstream's [1, C, 1, 1] did decay)."""
        return {name for name, _ in self.named_parameters() if name.endswith(".gamma")}

    def final(self, x: Tensor) -> Tensor:
        return self.neck(x)

    def drop_final(self) -> None:
        self.neck = nn.Identity().train(self.training)


def resolve_mixers(
    mixers: str | Sequence[str], stages: int, linear_mixer: str, softmax_mixer: str
) -> tuple[str, ...]:
    """Registered names, one a stage, of a ``mixers`` argument."""
    given = (mixers,) * stages if isinstance(mixers, str) else tuple(mixers)
    if len(given) != stages:
        raise ValueError(f"mixers: must be one name or one a stage ({stages}), got {given}")
    short = {"linear": linear_mixer, "softmax": softmax_mixer}
    return tuple(short.get(name, name) for name in (check_mixer_name(n, also=tuple(short)) for n in given))
