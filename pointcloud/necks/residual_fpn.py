"""LION's neck on Waymo and nuScenes: three levels of residual blocks, all brought to one size and joined."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from .blocks import ResidualBlock, check_map, joined, resampling


class ResidualFpn(nn.Module):
    """Level i: a projecting block of stride ``strides[i]``, then ``blocks[i]`` plain ones.

    ups: cells an axis of what a level gives, over those that it has; 0.5 is a 2x2 convolution of stride 2.
    Waymo's form has ups (1, 2, 4) and keeps the map's size (5 397 760 parameters for 128 channels);
    nuScenes' (0.5, 1, 2) halves it.
    Raises: ValueError when the levels' maps would not be of one size.
    """

    def __init__(
        self,
        in_channels: int = 128,
        *,
        blocks: Sequence[int] = (1, 2, 2),
        strides: Sequence[int] = (1, 2, 2),
        widths: Sequence[int] = (128, 128, 256),
        ups: Sequence[float] = (1, 2, 4),
        up_width: int = 128,
    ) -> None:
        super().__init__()
        if not len(blocks) == len(strides) == len(widths) == len(ups):
            got = f"blocks {blocks}, strides {strides}, widths {widths}, ups {ups}"
            raise ValueError(
                f"ResidualFpn: blocks, strides, widths and ups need one entry a level, got {got}"
            )
        down = [prod(strides[: i + 1]) for i in range(len(strides))]
        sizes = {d / up for d, up in zip(down, ups, strict=True)}
        if len(sizes) != 1:
            raise ValueError(
                f"ResidualFpn: strides {strides} and ups {ups} give maps of several sizes: {sizes}"
            )
        self.in_channels, self.out_channels = in_channels, up_width * len(ups)
        self.out_stride = round(sizes.pop())
        self.divisor = down[-1]
        self.blocks, self.deblocks = nn.ModuleList(), nn.ModuleList()
        for count, stride, width, up in zip(blocks, strides, widths, ups, strict=True):
            first = ResidualBlock(in_channels, width, stride, project=True)
            self.blocks.append(nn.Sequential(first, *(ResidualBlock(width, width) for _ in range(count))))
            self.deblocks.append(resampling(width, up_width, up))
            in_channels = width

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, Y, X) -> (B, levels * up_width, Y / out_stride, X / out_stride).

        Raises: ShapeError unless Y and X divide by the strides' product.
        """
        check_map("ResidualFpn", x, self.in_channels, self.divisor)
        return joined(x, self.blocks, self.deblocks)
