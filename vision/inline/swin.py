"""InLine-Swin: Swin whose first stages mix linearly over the whole map in the place of windows."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import calculate_drop_path_rates, resize_rel_pos_bias_table
from torch import Tensor, nn

from ..layers import check_listed
from ..sizes import check_body, check_count
from ..weights import StateDict
from .blocks import Block
from .init import start_weights
from .mixer import InLineAttention
from .normed import NormedPyramid
from .positions import image_sides
from .stage import ConvNorm, Stage, fills_up
from .window_attention import WindowAttention

MIXERS = ("inline", "window", "inline_first_2")
_TABLE = "relative_position_bias_table"


class PatchMerging(nn.Module):
    """Four neighbours side by side, LayerNorm of 4 C, Linear to 2 C; zeros fill up odd sizes.

    (B, C, H, W) -> (B, out_dim, ceil(H / 2), ceil(W / 2)). Order of (row, column): (even, even), (odd, even),
    (even, odd), (odd, odd).
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=1e-5, **dd)
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = (F.pad(x, (0, 1, 0, 1)) if fills_up(x, 2) else x).permute(0, 2, 3, 1)
        rows, columns = ((slice(0, n, 2), slice(1, n + 1, 2)) for n in (height, width))
        parts = (x[:, row, column] for column in columns for row in rows)
        return self.reduction(self.norm(torch.cat(tuple(parts), -1))).permute(0, 3, 1, 2)


class InLineSwin(NormedPyramid):
    """Stages at strides 4, 8, 16, 32, LayerNorm, pooling, classifier.

    Args:
        dims, depths, heads: channels, blocks and heads of each stage; heads divide dims.
        mixers: one for all stages or one a stage. "inline": linear over the whole map; "window": softmax in
            windows, shifted in odd blocks; "inline_first_2": "inline" in the first two blocks, then "window".
        window_size: tokens a side of the softmax windows.
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
        dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        mixers: str | Sequence[str] = ("inline", "inline", "inline", "window"),
        window_size: int = 7,
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
            "InLineSwin", dims, depths, heads, ffn_ratio=ffn_ratio, in_chans=in_chans,
            drop_path_rate=drop_path_rate,
        )  # fmt: skip
        check_count("InLineSwin", "window_size", window_size)
        self.in_chans, self.mixers = in_chans, resolve_mixers(mixers, len(dims))
        self.stem = ConvNorm(in_chans, dims[0], 4, 4, **dd)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        for i, dim in enumerate(dims):
            down = PatchMerging(dims[i - 1], dim, **dd) if i else None
            attentions = (
                make_attention(self.mixers[i], j, dim, heads[i], window_size, **dd) for j in range(depths[i])
            )
            blocks = [
                Block(dim, attn, ffn_ratio, 1e-5, rate, **dd)
                for attn, rate in zip(attentions, rates[i], strict=True)
            ]
            stages.append(Stage(blocks, down, **dd))
        self.finish(stages, dims, num_classes, global_pool, drop_rate, **dd)
        start_weights(self)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """The position bias tables."""
        return {name for name, _ in self.named_parameters() if name.endswith(_TABLE)}

    def windows(self) -> dict[str, WindowAttention]:
        """The softmax attentions by their names."""
        return {n: m for n, m in self.named_modules() if isinstance(m, WindowAttention)}

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, window_size: int | None = None
    ) -> None:
        """Changes the softmax windows and resizes their bias tables; any image size runs with any window.

        Args:
            img_size: pixels, int or (height, width); without ``window_size``, the window is the shorter side
                over 32, which is the authors' choice (7 at 224, 12 at 384).
            window_size: tokens a side.
        Raises: ValueError, with the model unchanged, for sizes that are no integers of at least 1.
        """
        size = window_of("set_input_size", img_size, window_size)
        for attn in self.windows().values():
            table = getattr(attn, _TABLE)
            if size != attn.window_size:
                with torch.no_grad():
                    resized = _resize(table, size)
                attn.relative_position_bias_table = nn.Parameter(resized, table.requires_grad)
                attn.window_size = size

    def fit_weights(self, weights: StateDict) -> StateDict:
        """The bias tables of a file, at this model's windows."""
        fitted = dict(weights)
        for name, attn in self.windows().items():
            table = fitted.get(f"{name}.{_TABLE}")
            if table is not None and len(table) != len(getattr(attn, _TABLE)):
                fitted[f"{name}.{_TABLE}"] = _resize(table, attn.window_size)
        return fitted


def _resize(table: Tensor, window: int) -> Tensor:
    """A bias table ((2 w - 1)^2, H) for windows of ``window`` tokens, as timm resizes them."""
    return resize_rel_pos_bias_table(table, (window, window), ((2 * window - 1) ** 2, table.shape[1]))


def window_of(owner: str, img_size: int | tuple[int, int] | None, window_size: int | None) -> int:
    """Tokens a side of the windows: as given, or the shorter side of the image over 32."""
    if img_size is None and window_size is None:
        raise ValueError(f"{owner}: img_size or window_size must be given, got neither")
    if img_size is not None:
        sides = image_sides(owner, img_size)
        window_size = max(1, min(sides) // 32) if window_size is None else window_size
    check_count(owner, "window_size", window_size)
    return window_size


def make_attention(mixers: str, index: int, dim: int, heads: int, window_size: int, **dd) -> nn.Module:
    """The attention of block ``index`` of a stage."""
    if mixers == "inline" or (mixers == "inline_first_2" and index < 2):
        return InLineAttention(dim, heads, **dd)
    return WindowAttention(dim, heads, window_size, index % 2 == 1, **dd)


def resolve_mixers(mixers: str | Sequence[str], stages: int) -> tuple[str, ...]:
    """One of ``MIXERS`` for each stage, from a ``mixers`` argument."""
    given = (mixers,) * stages if isinstance(mixers, str) else tuple(mixers)
    if len(given) != stages:
        raise ValueError(f"mixers: must be one name or one a stage ({stages}), got {given}")
    return tuple(check_listed(name, MIXERS) for name in given)
