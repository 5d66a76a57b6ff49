"""Host side of the depthwise Triton kernels: forward and backward of depthwise_eager.py."""

import torch
from torch import Tensor

from ..linear_attn.triton_plan import Launch, arch_of, check, launch, processors
from .triton_kernels import depthwise_kernel, depthwise_weight_gradient_kernel
from .triton_tiles import split_count, tile_for

OP = "depthwise_sparse_conv"


def forward(x: Tensor, weight: Tensor, table: Tensor) -> Tensor:
    """x (n_in, C), weight [kz, ky, kx, C] -> (n_out, C) in x's dtype."""
    check(OP, x)
    channels, rows = x.shape[1], table.shape[1]
    tile = tile_for("depthwise", channels, 1, x.dtype, arch_of(x.device))
    y = x.new_empty(rows, channels)
    args = {"x": x.contiguous(), "weight": weight.contiguous(), "table": table, "y_out": y, "n_rows": rows}
    constants = {"K": table.shape[0] - 1, "C": channels, "BM": tile.rows, "BC": tile.columns}
    grid = (-(-rows // tile.rows), -(-channels // tile.columns))
    launch(x.device, Launch(depthwise_kernel, grid, args, constants, tile))
    return y


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    offsets: Tensor,
    table: Tensor,
    need_dx: bool,
    need_dw: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """(dx, dweight); ``table`` has a column for each input row, and the output rows that it reaches."""
    dy = dy.to(x.dtype).contiguous()
    dx = forward(dy, weight, table) if need_dx else None
    dw = _weight_gradient(x.contiguous(), dy, inputs, outputs, offsets) if need_dw else None
    return dx, dw if dw is None else dw.view(weight.shape).to(weight.dtype)


def _weight_gradient(x: Tensor, dy: Tensor, inputs: Tensor, outputs: Tensor, offsets: Tensor) -> Tensor:
    check(OP, x)
    channels, cells = x.shape[1], offsets.shape[0] - 1
    tile = tile_for("depthwise_weight_gradient", channels, 1, x.dtype, arch_of(x.device))
    tiles = -(-channels // tile.columns)
    splits = split_count(cells * tiles, inputs.shape[0], processors(x.device))
    parts = x.new_empty((splits, cells, channels), dtype=torch.float32)
    args = {"x": x, "dy": dy, "inputs": inputs, "outputs": outputs, "offsets": offsets}
    args |= {"parts_out": parts, "n_split": splits}
    constants = {"K": cells, "C": channels, "BM": tile.rows, "BC": tile.columns}
    launch(x.device, Launch(depthwise_weight_gradient_kernel, (cells * splits, tiles), args, constants, tile))
    return parts.sum(0)
