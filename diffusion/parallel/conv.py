"""Conv2d on a band: fetch the rows that the kernel reaches beyond it, pad only at the image's edges.

Output row o reads input rows o s - p + d j, j = 0 .. k - 1 (stride s, padding p, dilation d, kernel height
k), so rows o0 .. o1 - 1 need input rows o0 s - p .. (o1 - 1) s - p + d (k - 1).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .bands import Span
from .place import Parallel


def needed(output: Span, kernel: int, stride: int, padding: int, dilation: int) -> Span:
    """Input rows that output rows need; may reach outside the image, where there are zeros."""
    first, last = output
    return first * stride - padding, (last - 1) * stride - padding + dilation * (kernel - 1) + 1


class BandConv(Parallel):
    """(B, C, own rows, W) -> (B, C', own output rows, W'): those rows of the whole image's convolution.

    Settings are read at each call: one that was dilated for a high-resolution pass fetches more rows.
    """

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride, padding, dilation = (
            pair[0] for pair in (self.kernel_size, self.stride, self.padding, self.dilation)
        )
        place = self.place
        bands = place.bands()
        rows = bands.rows + 2 * padding - dilation * (kernel - 1) - 1
        after = place.bands(stride.bit_length() - 1)
        if rows // stride + 1 != after.rows:
            raise ValueError(
                f"{place.name} must keep its rows or halve them to be parallel, got {bands.rows} rows in, "
                f"{rows // stride + 1} out: kernel {kernel}, stride {stride}, padding {padding}, dilation "
                f"{dilation}"
            )
        spans = [
            needed(after.of(rank), kernel, stride, padding, dilation) for rank in range(place.link.world)
        ]
        inside = [(max(a, 0), min(b, bands.rows)) for a, b in spans]
        x = place.link.rows(x, 2, bands, inside, place.sender("conv"))
        (a, b), (first, last) = spans[place.link.rank], inside[place.link.rank]
        if first > a or b > last:
            x = F.pad(x, (0, 0, first - a, b - last))
        return F.conv2d(
            x, self.weight, self.bias, self.stride, (0, self.padding[1]), self.dilation, self.groups
        )


def is_spatial(conv: nn.Conv2d) -> bool:
    """Whether an output row reads other rows than its own."""
    return conv.kernel_size[0] > 1 or conv.stride[0] > 1


def check_conv(name: str, conv: nn.Conv2d) -> None:
    """Raises: ValueError for a convolution whose halo is not one of rows and zeros."""
    what = None
    if type(conv) is not nn.Conv2d:
        what = f"a {type(conv).__name__}"
    elif conv.padding_mode != "zeros":
        what = f"padding_mode={conv.padding_mode!r}"
    elif isinstance(conv.padding, str):
        what = f"padding={conv.padding!r}"
    elif conv.stride[0] not in (1, 2):
        what = f"stride {conv.stride[0]}"
    if what:
        raise ValueError(
            f"parallelize: {name} must be a torch.nn.Conv2d with zero padding in numbers and stride 1 or 2, "
            f"got {what}"
        )
