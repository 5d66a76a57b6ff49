"""SECOND's neck, which LION has on KITTI and ONCE: two levels of plain convolutions, joined at full size."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from .blocks import batch_norm, check_map, joined, resampling


def plain_level(in_channels: int, width: int, stride: int, count: int) -> nn.Sequential:
    """A strided convolution and ``count`` more, each with BN and ReLU.

    The border of the first is a layer of its own, so that the numbers in the parameter names are OpenPCDet's.
    """
    layers: list[nn.Module] = [nn.ZeroPad2d(1), nn.Conv2d(in_channels, width, 3, stride, bias=False)]
    layers += [batch_norm(width), nn.ReLU()]
    for _ in range(count):
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), batch_norm(width), nn.ReLU()]
    return nn.Sequential(*layers)


class SecondNeck(nn.Module):
    """Levels of 1 + ``convs[i]`` convolutions; each level's map is enlarged by the product of its strides."""

    def __init__(
        self,
        in_channels: int,
        *,
        convs: Sequence[int] = (5, 5),
        strides: Sequence[int] = (1, 2),
        widths: Sequence[int] = (128, 256),
        up_width: int = 256,
    ) -> None:
        super().__init__()
        if not len(convs) == len(strides) == len(widths):
            got = f"convs {convs}, strides {strides}, widths {widths}"
            raise ValueError(f"SecondNeck: convs, strides and widths need one entry a level, got {got}")
        self.in_channels, self.out_channels, self.out_stride = in_channels, up_width * len(widths), 1
        self.divisor = prod(strides)
        self.blocks, self.deblocks = nn.ModuleList(), nn.ModuleList()
        for i, (count, stride, width) in enumerate(zip(convs, strides, widths, strict=True)):
            self.blocks.append(plain_level(in_channels, width, stride, count))
            self.deblocks.append(resampling(width, up_width, prod(strides[: i + 1])))
            in_channels = width

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, Y, X) -> (B, levels * up_width, Y, X).

        Raises: ShapeError unless Y and X divide by the strides' product.
        """
        check_map("SecondNeck", x, self.in_channels, self.divisor)
        return joined(x, self.blocks, self.deblocks)
