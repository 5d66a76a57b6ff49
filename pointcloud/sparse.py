"""Sparse 3-D convolutions over voxels, with weights laid out as in the published checkpoints (spconv 2's).

Pair lists are kept in ``Voxels.cache``: convolutions of one kind and size over the same cells share them.
"""

import math

import torch
from torch import Tensor, nn

from ..kernels import (
    ConvPairs,
    depthwise_sparse_conv,
    sparse_conv,
    strided_pairs,
    submanifold_pairs,
)
from .voxels import Voxels

Size = int | tuple[int, int, int]


def triple(name: str, size: Size, least: int) -> tuple[int, int, int]:
    """One number for all axes, or one along each of (z, y, x)."""
    sizes = (size,) * 3 if isinstance(size, int) else tuple(size)
    if len(sizes) != 3 or not all(isinstance(s, int) and s >= least for s in sizes):
        raise ValueError(f"{name} must be an integer >= {least}, or three along (z, y, x), got {size}")
    return sizes


def positive(name: str, channels: int) -> int:
    if channels < 1:
        raise ValueError(f"{name} must be >= 1, got {channels}")
    return channels


def submanifold_pairs_of(voxels: Voxels, kernel_size: tuple[int, int, int]) -> ConvPairs:
    """The pair lists of a submanifold convolution over these cells, made once."""
    key = ("submanifold", kernel_size, (1, 1, 1), None)
    return voxels.cached(key, lambda: submanifold_pairs(voxels.coords, voxels.shape, kernel_size))


class _Convolution(nn.Module):
    """Weight [out, kz, ky, kx, in] and bias (out,), drawn as torch and spconv draw them."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, bias: bool) -> None:
        super().__init__()
        self.kernel_size = triple("kernel_size", kernel_size, 1)
        self.in_channels = positive("in_channels", in_channels)
        self.out_channels = positive("out_channels", out_channels)
        self.weight = nn.Parameter(torch.empty(out_channels, *self.kernel_size, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform within 1 / sqrt(fan in), kaiming_uniform_ with a = sqrt(5), for weight and bias."""
        bound = 1 / math.sqrt(math.prod(self.kernel_size) * self.in_channels)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"


class SubmanifoldConv3d(_Convolution):
    """A convolution with outputs at the input's cells only, in the same order; nothing spreads.

    kernel_size: odd, one number or one along each of (z, y, x).  Parameters: weight [out, kz, ky, kx, in],
    bias (out,).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size = 3, bias: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias)
        if not all(k % 2 for k in self.kernel_size):
            raise ValueError(f"kernel_size must be odd along every axis, got {self.kernel_size}")

    def forward(self, voxels: Voxels) -> Voxels:
        pairs = submanifold_pairs_of(voxels, self.kernel_size)
        return voxels.with_features(sparse_conv(voxels.features, self.weight, pairs, bias=self.bias))


class SparseConv3d(_Convolution):
    """A strided convolution with an output at every cell that any input touches, sorted by (b, z, y, x).

    kernel_size, stride, padding: one number or one along each of (z, y, x).  Parameters: weight
    [out, kz, ky, kx, in], bias (out,).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        bias: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias)
        self.stride, self.padding = triple("stride", stride, 1), triple("padding", padding, 0)

    def forward(self, voxels: Voxels) -> Voxels:
        pairs, coarse = self.pairs_of(voxels)
        features = sparse_conv(voxels.features, self.weight, pairs, bias=self.bias)
        return coarse.with_features(features)

    def pairs_of(self, voxels: Voxels) -> tuple[ConvPairs, Voxels]:
        """The pair lists, and the output's cells without features; both made once for these cells.

        So two passes over the same cells give outputs that share a cache, too.
        """
        geometry = (self.kernel_size, self.stride, self.padding)

        def make() -> tuple[ConvPairs, Voxels]:
            pairs, coords, shape = strided_pairs(voxels.coords, voxels.shape, *geometry)
            empty = voxels.features.new_empty(len(coords), 0)
            size = voxels.batch_size
            return pairs, Voxels(features=empty, coords=coords, shape=shape, batch_size=size)

        return voxels.cached(("strided", *geometry), make)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, stride={self.stride}, padding={self.padding}"


class DepthwiseSubmanifoldConv3d(nn.Module):
    """A submanifold convolution of every channel by its own kernel (ScatterFormer's), without bias.

    kernel_size: odd, one number or one along each of (z, y, x).  Parameter: weight [kz, ky, kx, C], drawn
    standard normal, as the authors do.
    """

    def __init__(self, channels: int, kernel_size: Size = 3) -> None:
        super().__init__()
        self.channels = positive("channels", channels)
        self.kernel_size = triple("kernel_size", kernel_size, 1)
        if not all(k % 2 for k in self.kernel_size):
            raise ValueError(f"kernel_size must be odd along every axis, got {self.kernel_size}")
        self.weight = nn.Parameter(torch.empty(*self.kernel_size, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)

    def forward(self, voxels: Voxels) -> Voxels:
        return voxels.with_features(self.convolved(voxels, voxels.features))

    def convolved(self, voxels: Voxels, features: Tensor) -> Tensor:
        """The convolution of other features (M, channels) of the same cells."""
        pairs = submanifold_pairs_of(voxels, self.kernel_size)
        return depthwise_sparse_conv(features, self.weight, pairs)

    def extra_repr(self) -> str:
        return f"{self.channels}, kernel_size={self.kernel_size}"
