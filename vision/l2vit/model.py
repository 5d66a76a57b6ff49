"""L2ViT, arXiv 2501.16182: window attention and linear global attention in turn, in timm's interface."""

from collections.abc import Sequence

import torch
from timm.layers import calculate_drop_path_rates
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..backbone import Backbone
from ..layers import check_listed
from ..sizes import check_body, check_count
from .blocks import GlobalBlock, WindowBlock
from .mixer import LinearGlobalAttention, WindowAttention
from .stem import PaddedDownsample, PaddedStem

MIXERS = ("alternate", "linear", "window", "softmax")


def make_block(
    mixers: str, index: int, dim: int, heads: int, window_size: int, ffn_ratio: float, drop_path: float, **dd
) -> nn.Module:
    """Block ``index`` of a stage: "alternate" puts windows at even and linear attention at odd places."""
    if mixers == "window" or (mixers == "alternate" and index % 2 == 0):
        return WindowBlock(dim, heads, window_size, ffn_ratio, drop_path, **dd)
    return GlobalBlock(dim, heads, mixers == "softmax", ffn_ratio, drop_path, **dd)


class L2Stage(nn.Module):
    """Downsampling, if any, then blocks on one token grid; (B, C_in, H, W) -> (B, C, H', W')."""

    def __init__(
        self,
        in_dim: int | None,
        dim: int,
        heads: int,
        mixers: str,
        window_size: int,
        ffn_ratio: float,
        drop_path: Sequence[float],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = nn.Identity() if in_dim is None else PaddedDownsample(in_dim, dim, **dd)
        self.blocks = nn.ModuleList(
            make_block(mixers, j, dim, heads, window_size, ffn_ratio, rate, **dd)
            for j, rate in enumerate(drop_path)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing else block(x)
        return x.permute(0, 3, 1, 2)


class L2ViT(Backbone):
    """Four stages at strides 4, 8, 16, 32, LayerNorm, pooling, classifier.

    Args:
        dims, depths, heads: channels, blocks and heads of each stage; heads divide dims.
        window_size: tokens a side of the attention windows.
        ffn_ratio: hidden width of the feed-forward branches over dims.
        mixers: one for all stages or one a stage. "alternate": window blocks at even, linear blocks at odd
            places, as published; "linear", "window": one kind throughout; "softmax": the linear blocks with
            softmax over all tokens in the place of linear attention, the quadratic twin of "linear".
        drop_path_rate: of the last block; it rises linearly from 0 over the blocks.
        head_init_scale: factor on the classifier's first weights.
        num_classes: 0 leaves the classifier out.
        global_pool: timm's pooling names; "" (with num_classes=0) keeps the map.
        drop_rate: dropout before the classifier.
        device, dtype: of the parameters; "meta" works.
    Raises: ValueError for sizes below 1, rates outside [0, 1), stage counts that differ, heads that do not
        divide, unknown mixers.
    """

    final_is_norm = True

    def __init__(
        self,
        dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        ffn_ratio: float = 4.0,
        mixers: str | Sequence[str] = "alternate",
        drop_path_rate: float = 0.0,
        head_init_scale: float = 1.0,
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
            "L2ViT",
            dims,
            depths,
            heads,
            ffn_ratio=ffn_ratio,
            in_chans=in_chans,
            drop_path_rate=drop_path_rate,
        )
        check_count("L2ViT", "window_size", window_size)
        self.in_chans, self.head_init_scale = in_chans, head_init_scale
        self.mixers = resolve_mixers(mixers, len(dims))

        self.stem = PaddedStem(in_chans, dims[0], **dd)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        before = (None, *dims[:-1])
        self.stages = nn.Sequential(
            *(
                L2Stage(before[i], dims[i], heads[i], self.mixers[i], window_size, ffn_ratio, rates[i], **dd)
                for i in range(len(dims))
            )
        )
        self.norm = nn.LayerNorm(dims[-1], eps=1e-5, **dd)
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"} for i, dim in enumerate(dims)
        ]
        self.num_features = self.head_hidden_size = dims[-1]
        self.build_head(num_classes, global_pool, drop_rate, **dd)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal of std 0.02 and zero bias, as the authors start; norms at 1 and 0, temperatures d^-1/2."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.normal_(module.weight, std=0.02)  # upstream cuts at +-2: the cut never acts
                nn.init.zeros_(module.bias)
            elif isinstance(module, LinearGlobalAttention):
                nn.init.constant_(module.temperature, (module.proj.in_features // module.heads) ** -0.5)
        if isinstance(self.head, nn.Linear):
            with torch.no_grad():
                self.head.weight.mul_(self.head_init_scale)
                self.head.bias.mul_(self.head_init_scale)

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, window_size: int | None = None
    ) -> None:
        """Changes the attention windows. No parameter changes, and any image size runs with any window.

        Args:
            img_size: pixels, int or (height, width); without ``window_size``, the window is the shorter side
                over 32, which is the authors' choice (7 at 224, 12 at 384).
            window_size: tokens a side.
        Raises: ValueError, with the model unchanged, for sizes that are no integers of at least 1.
        """
        if img_size is None and window_size is None:
            raise ValueError("set_input_size: img_size or window_size must be given, got neither")
        if img_size is not None:
            sides = tuple(img_size) if isinstance(img_size, Sequence) else (img_size, img_size)
            if len(sides) != 2:
                raise ValueError(
                    f"set_input_size: img_size must be an int or (height, width), got {img_size!r}"
                )
            for side in sides:
                check_count("set_input_size", "img_size", side)
            window_size = max(1, min(sides) // 32) if window_size is None else window_size
        check_count("set_input_size", "window_size", window_size)
        for module in self.modules():
            if isinstance(module, WindowAttention):
                module.window_size = window_size

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Temperatures: vectors here, so timm exempts them in any case (upstream's [heads, 1, 1] decayed)."""
        return {name for name, _ in self.named_parameters() if name.endswith(".temperature")}

    def final(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def drop_final(self) -> None:
        self.norm = nn.Identity().train(self.training)


def resolve_mixers(mixers: str | Sequence[str], stages: int) -> tuple[str, ...]:
    """One of ``MIXERS`` for each stage, from a ``mixers`` argument."""
    given = (mixers,) * stages if isinstance(mixers, str) else tuple(mixers)
    if len(given) != stages:
        raise ValueError(f"mixers: must be one name or one a stage ({stages}), got {given}")
    return tuple(check_listed(name, MIXERS) for name in given)
