"""InLine-CSwin: linear attention over the map in the first stages, cross-shaped softmax windows in the last.

    x <- x + drop_path(proj(branches(qkv(norm1 x))));  x <- x + drop_path(mlp(norm2 x))

Cross-shaped windows (arXiv 2107.00652): half of the channels attend within vertical stripes, half within
horizontal ones. Every branch adds a static depthwise 3x3 of v ("get_v").
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, calculate_drop_path_rates
from torch import Tensor, nn

from ..layers import DepthwiseConv, check_listed
from ..sizes import check_body, check_count
from .init import start_weights
from .local import LocalKernel, convolve_each
from .mixer import inline_attention, mean_token
from .normed import NormedPyramid
from .stage import ConvNorm, Stage
from .swin import window_of
from .windows import Windows, has_labels, join_windows, split_windows, window_labels

MIXERS = ("inline", "stripes", "softmax")


class InLineBranch(nn.Module):
    """InLine over the whole map; q, k, v (B, h, w, C) and the mean token (B, C) -> (B, h, w, C)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.heads = heads
        self.get_v = DepthwiseConv(dim, **dd)
        self.local = LocalKernel(dim, heads, **dd)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mu: Tensor) -> Tensor:
        heads = (t.flatten(1, 2).unflatten(-1, (self.heads, -1)) for t in (q, k, v))
        o = inline_attention(*heads).flatten(2).unflatten(1, v.shape[1:3])
        taps = self.local(mu) + self.get_v.weight.squeeze(1)  # both convolutions are of v: one does for two
        return o + convolve_each(v, taps) + self.get_v.bias


class StripeBranch(nn.Module):
    """Softmax within stripes of the map; q, k, v (B, h, w, C) -> (B, h, w, C), the mean token is not read.

    Args:
        axis: "down": stripes are as tall as the map and ``split`` wide; "across": the other way round;
            "all": the map is one stripe.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        axis: str,
        split: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.axis, self.split = heads, axis, split
        self.get_v = DepthwiseConv(dim, device=device, dtype=dtype)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mu: Tensor) -> Tensor:
        if self.axis == "all":
            y = self.attend(*(t.flatten(1, 2) for t in (q, k, v)))
            return y.unflatten(1, v.shape[1:3]) + self.get_v(v)
        if self.axis == "down":
            return self.stripes(q, k, v)
        # torch.export cannot cut a stripe that is as wide as the map: it is laid down, and set upright again
        return self.stripes(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)

    def stripes(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Within stripes as tall as the map: (B, h, w, C) three times -> (B, h, w, C)."""
        batch, height, width, _ = v.shape
        cut = Windows(batch, (height, width), (height, self.split), (0, 0))
        q, k, v = (split_windows(t, cut) for t in (q, k, v))
        same = None
        if has_labels(cut):
            label = window_labels(cut, v.device)
            same = (label.unsqueeze(1) == label.unsqueeze(2)).unsqueeze(1)
        image = v.unfold(1, self.split, self.split).transpose(2, 3)  # (B * stripes, h, split, C)
        upright = image if self.axis == "down" else image.transpose(1, 2)
        local = self.get_v(upright)  # zeros beyond a stripe's own edges
        local = local if self.axis == "down" else local.transpose(1, 2)
        return join_windows(self.attend(q, k, v, same) + local.flatten(1, 2), cut)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Softmax over the tokens of a row: (B, T, C) three times -> (B, T, C)."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class CSwinBlock(nn.Module):
    """(B, h, w, C) -> (B, h, w, C). mu is the mean of the tokens before norm1, unlike in the other forms.

    Args:
        mixer: "inline": one InLine branch; "stripes": vertical stripes for the first half of the channels,
            horizontal ones for the second; "softmax": one branch over the whole map.
        split: tokens a stripe is wide.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mixer: str,
        split: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-5, **dd)
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        if mixer == "inline":
            branches = [InLineBranch(dim, heads, **dd)]
        elif mixer == "softmax":
            branches = [StripeBranch(dim, heads, "all", split, **dd)]
        else:
            branches = [StripeBranch(dim // 2, heads // 2, axis, split, **dd) for axis in ("down", "across")]
        self.attns = nn.ModuleList(branches)
        self.proj = nn.Linear(dim, dim, **dd)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5, **dd)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), **dd)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        mu = mean_token(x.flatten(1, 2))
        parts = (t.chunk(len(self.attns), -1) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        mixed = [attn(q, k, v, mu) for attn, q, k, v in zip(self.attns, *parts, strict=True)]
        x = x + self.drop_path(self.proj(torch.cat(mixed, -1) if len(mixed) > 1 else mixed[0]))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class InLineCSwin(NormedPyramid):
    """Stages at strides 4, 8, 16, 32, LayerNorm, pooling, classifier.

    Args:
        dims, depths, heads: channels, blocks and heads of each stage; heads divide dims.
        mixers: one for all stages or one a stage; see ``CSwinBlock``.
        split_sizes: tokens that a stripe is wide, of each stage; read where the mixer is "stripes".
        ffn_ratio: hidden width of the MLPs over dims.
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
        depths: Sequence[int] = (2, 4, 18, 1),
        heads: Sequence[int] = (2, 4, 8, 16),
        mixers: str | Sequence[str] = ("inline", "inline", "stripes", "softmax"),
        split_sizes: Sequence[int] = (1, 2, 7, 7),
        ffn_ratio: float = 4.0,
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
            "InLineCSwin", dims, depths, heads, ffn_ratio=ffn_ratio, in_chans=in_chans,
            drop_path_rate=drop_path_rate, split_sizes=split_sizes,
        )  # fmt: skip
        self.in_chans, self.mixers = in_chans, resolve_mixers(mixers, dims, heads, split_sizes)
        self.stem = ConvNorm(in_chans, dims[0], 7, 4, 2, **dd)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        for i, dim in enumerate(dims):
            down = ConvNorm(dims[i - 1], dim, 3, 2, 1, **dd) if i else None
            settings = (heads[i], self.mixers[i], split_sizes[i], ffn_ratio)
            stages.append(Stage([CSwinBlock(dim, *settings, rate, **dd) for rate in rates[i]], down, **dd))
        self.finish(stages, dims, num_classes, global_pool, drop_rate, **dd)
        start_weights(self)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """None: there are no tables, and timm exempts vectors anyhow."""
        return set()

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, window_size: int | None = None
    ) -> None:
        """Changes the width of the stripes. No parameter changes, and any image size runs with any width.

        Args:
            img_size: pixels, int or (height, width); without ``window_size``, the width is the shorter side
                over 32, which is the authors' choice (7 at 224, 12 at 384).
            window_size: tokens.
        Raises: ValueError, with the model unchanged, for sizes that are no integers of at least 1.
        """
        size = window_of("set_input_size", img_size, window_size)
        for module in self.modules():
            if isinstance(module, StripeBranch):
                module.split = size


def resolve_mixers(
    mixers: str | Sequence[str], dims: Sequence[int], heads: Sequence[int], split_sizes: Sequence[int]
) -> tuple[str, ...]:
    """One of ``MIXERS`` for each stage, from a ``mixers`` argument; what stripes need is checked."""
    given = (mixers,) * len(dims) if isinstance(mixers, str) else tuple(mixers)
    if len(given) != len(dims):
        raise ValueError(f"mixers: must be one name or one a stage ({len(dims)}), got {given}")
    for i, name in enumerate(given):
        check_listed(name, MIXERS)
        check_count("InLineCSwin", f"split_sizes[{i}]", split_sizes[i])
        if name == "stripes" and heads[i] % 2:
            raise ValueError(f"InLineCSwin: heads[{i}] must be even for stripes, got {heads[i]}")
    return given
