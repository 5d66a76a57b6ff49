"""Small convolution stacks, one for each thing that a head says."""

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

from ..necks.blocks import batch_norm

RARE = -2.19  # bias of a heat map's last convolution: sigmoid(-2.19) = 0.1


def conv_norm_relu(in_channels: int, channels: int, *, bias: bool) -> nn.Sequential:
    """3x3 convolution, BN, ReLU."""
    conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=bias)
    return nn.Sequential(conv, batch_norm(channels), nn.ReLU())


class NamedBranches(nn.Module):
    """Branches by name. The one named ``rare`` starts at a bias of -2.19, the others with Kaiming weights and
    biases of zero.
    """

    def __init__(self, rare: str) -> None:
        super().__init__()
        self.rare = rare
        self.names: list[str] = []

    def add(self, name: str, first: nn.Sequential, last: nn.Conv1d | nn.Conv2d) -> None:
        branch = nn.Sequential(first, last)
        if name == self.rare:
            nn.init.constant_(last.bias, RARE)
        else:
            start_kaiming(branch)
        self.names.append(name)
        self.add_module(name, branch)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Of every branch: (B, width, ...) -> (B, channels, ...)."""
        return {name: self.get_submodule(name)(x) for name in self.names}


class Branches(NamedBranches):
    """``outputs``: name to channels. Each branch: 3x3 convolution, BN, ReLU, 3x3 convolution with a bias."""

    def __init__(self, width: int, outputs: Mapping[str, int], *, rare: str, bias: bool) -> None:
        super().__init__(rare)
        for name, channels in outputs.items():
            last = nn.Conv2d(width, channels, 3, padding=1)
            self.add(name, conv_norm_relu(width, width, bias=bias), last)


class QueryBranches(NamedBranches):
    """As ``Branches``, on rows of queries: both convolutions have kernel 1, the first is ``hidden`` wide."""

    def __init__(
        self, width: int, outputs: Mapping[str, int], *, rare: str, bias: bool, eps: float, hidden: int = 64
    ) -> None:
        super().__init__(rare)
        for name, channels in outputs.items():
            norm = nn.BatchNorm1d(hidden, eps=eps, momentum=0.01)
            first = nn.Sequential(nn.Conv1d(width, hidden, 1, bias=bias), norm, nn.ReLU())
            self.add(name, first, nn.Conv1d(hidden, channels, 1))


def heat_map_stack(width: int, classes: int, *, bias: bool, eps: float) -> nn.Sequential:
    """3x3 convolution (``0.conv``), BN (``0.bn``), ReLU, 3x3 convolution to the classes (``1``)."""
    conv = nn.Conv2d(width, width, 3, padding=1, bias=bias)
    norm = nn.BatchNorm2d(width, eps=eps, momentum=0.01)
    first = nn.Sequential(OrderedDict(conv=conv, bn=norm, relu=nn.ReLU()))
    last = nn.Conv2d(width, classes, 3, padding=1)
    nn.init.constant_(last.bias, RARE)
    return nn.Sequential(first, last)


def start_kaiming(module: nn.Module) -> None:
    """Kaiming-normal convolution weights, biases of zero."""
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
