"""ScatterFormer's neck: small encoder-decoders ("dense encoder-decoder", DED) one after the other."""

from torch import Tensor, nn

from .blocks import ResidualBlock, batch_norm, check_map, resampling

BLOCKS = (2, 1, 1)  # residual blocks a level, beside the projecting ones
STRIDES = (1, 2, 2)  # of each level's first block


class Ded(nn.Module):
    """Three levels down, two up: the coarser map is enlarged, added to the encoder's, normalised."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleList()
        for count, stride in zip(BLOCKS, STRIDES, strict=True):
            blocks = [ResidualBlock(width, width) for _ in range(count)]
            if stride > 1 or in_channels != width:
                blocks.insert(0, ResidualBlock(in_channels, width, stride, project=True))
            self.encoder.append(nn.Sequential(*blocks))
            in_channels = width
        ups = [stride for stride in reversed(STRIDES) if stride > 1]  # deepest first
        self.decoder = nn.ModuleList(resampling(width, width, up) for up in ups)
        self.decoder_norm = nn.ModuleList(batch_norm(width) for _ in ups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, Y, X) -> (B, width, Y, X)."""
        maps = []
        for level in self.encoder:
            x = level(x)
            maps.append(x)
        finer = maps[-2::-1]
        for up, norm, skip in zip(self.decoder, self.decoder_norm, finer, strict=True):
            x = norm(up(x) + skip)
        return x


class CascadeDed(nn.Module):
    """``units`` DEDs in series, no skip around them. 7 751 680 parameters at 128 channels and 4 units."""

    def __init__(self, in_channels: int = 128, *, width: int = 128, units: int = 4) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.out_stride = in_channels, width, 1
        self.layers = nn.ModuleList(Ded(width if i else in_channels, width) for i in range(units))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, Y, X) -> (B, width, Y, X).

        Raises: ShapeError unless Y and X are multiples of 4, by which the encoders shrink the map.
        """
        check_map("CascadeDed", x, self.in_channels, 4)
        for layer in self.layers:
            x = layer(x)
        return x
