"""A pyramid of strides from maps that have only one, or start too coarse."""

from collections.abc import Sequence

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W), eps 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Maps of ``out_strides`` from a backbone's maps of ``in_strides``, without a path from coarse to fine.

    A level whose stride the backbone has is that map; a finer one is its finest map, doubled by transposed
    convolutions that halve the channels; a coarser one is its next finer map, halved by pooling. Every level
    then gets a 1x1 and a 3x3 convolution, each with LayerNorm. It stands in the place of mmdetection's FPN
    behind isotropic backbones (LightNet, ViT: one map of stride 16) and EfficientViM (strides 16, 32, 64).

    Args:
        in_channels, in_strides: of the backbone's maps, finest first: its ``out_channels``, ``out_strides``.
        out_channels: of every level.
        out_strides: finest first, each a power of two away from one of ``in_strides``: (4, 8, 16, 32, 64) for
            Mask R-CNN, (8, 16, 32, 64, 128) for RetinaNet; the strides of the anchors must be the same.
        init_cfg: mmengine's.
    Raises: ValueError for lists that disagree and strides that cannot be made.
    Source: the simple feature pyramid of ViTDet, arXiv 2203.16527, section 3; several input maps are ours.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        out_channels: int = 256,
        out_strides: Sequence[int] = (4, 8, 16, 32, 64),
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_strides(in_channels, in_strides, out_channels, out_strides)
        self.in_channels, self.in_strides = tuple(in_channels), tuple(in_strides)
        self.out_channels, self.out_strides = out_channels, tuple(out_strides)
        self.sources = tuple(nearest(in_strides, stride) for stride in out_strides)
        self.levels = nn.ModuleList(
            level(in_channels[source], out_channels, in_strides[source], stride)
            for source, stride in zip(self.sources, out_strides, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (B, C_i, H_i, W_i) of ``in_strides`` -> (B, out_channels, H_o, W_o) of ``out_strides``."""
        if [x.shape[1] for x in maps] != list(self.in_channels):
            raise ValueError(
                f"SimpleFeaturePyramid: maps must have {self.in_channels} channels (in_channels), got "
                f"{[tuple(x.shape) for x in maps]}"
            )
        return tuple(
            make(maps[source]).contiguous() for make, source in zip(self.levels, self.sources, strict=True)
        )


def nearest(in_strides: Sequence[int], stride: int) -> int:
    """Index of the map that a level is made of: the coarsest that is no coarser, else the finest."""
    return max((i for i, in_stride in enumerate(in_strides) if in_stride <= stride), default=0)


def level(channels: int, out_channels: int, in_stride: int, stride: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    while stride < in_stride:
        parts += [nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)]
        channels, in_stride = channels // 2, in_stride // 2
        if stride < in_stride:
            parts += [ChannelNorm(channels), nn.GELU()]
    while stride > in_stride:
        parts += [nn.MaxPool2d(2, ceil_mode=True)]
        in_stride *= 2
    return nn.Sequential(
        *parts,
        nn.Conv2d(channels, out_channels, 1, bias=False),
        ChannelNorm(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        ChannelNorm(out_channels),
    )


def check_strides(
    in_channels: Sequence[int], in_strides: Sequence[int], out_channels: int, out_strides: Sequence[int]
) -> None:
    """Raises ValueError for what ``SimpleFeaturePyramid`` cannot make."""
    counts = (*in_channels, *in_strides, *out_strides, out_channels)
    if not in_channels or not out_strides or not all(type(n) is int and n > 0 for n in counts):
        raise ValueError(
            f"SimpleFeaturePyramid: channels and strides must be integers above 0, got in_channels "
            f"{in_channels}, in_strides {in_strides}, out_channels {out_channels}, out_strides {out_strides}"
        )
    if len(in_channels) != len(in_strides):
        raise ValueError(
            f"SimpleFeaturePyramid: in_strides must have one entry a map ({len(in_channels)}), "
            f"got {in_strides}"
        )
    for name, strides in (("in_strides", in_strides), ("out_strides", out_strides)):
        if list(strides) != sorted(set(strides)):
            raise ValueError(f"SimpleFeaturePyramid: {name} must rise, got {strides}")
    for stride in out_strides:
        source = nearest(in_strides, stride)
        low, high = sorted((stride, in_strides[source]))
        ratio = high // low
        if high % low or ratio & (ratio - 1):
            raise ValueError(
                f"SimpleFeaturePyramid: out_strides must be powers of two away from in_strides {in_strides}, "
                f"got {stride}"
            )
        if stride < in_strides[source] and in_channels[source] % ratio:
            raise ValueError(
                f"SimpleFeaturePyramid: in_channels must be a multiple of {ratio} to reach stride {stride}, "
                f"got {in_channels[source]}"
            )
