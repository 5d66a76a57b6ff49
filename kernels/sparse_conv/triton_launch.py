"""Host side of the Triton kernels: forward and backward of eager.py, on tensors, without autograd."""

import torch
from torch import Tensor

from ..linear_attn.triton_plan import Launch, arch_of, check, launch, processors
from .eager import by_cell
from .triton_kernels import conv_kernel, weight_gradient_kernel
from .triton_tiles import precision, split_count, tile_for

OP = "sparse_conv"


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, table: Tensor) -> Tensor:
    """x (n_in, Cin), weight [Cout, kz, ky, kx, Cin] -> (n_out, Cout) in x's dtype."""
    check(OP, x)
    return _conv(x, by_cell(weight), bias, table)


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, table: Tensor) -> Tensor:
    """x (., C), weight (K, C, N), a table with R columns -> (R, N)."""
    cells, depth, columns = weight.shape
    rows, arch = table.shape[1], arch_of(x.device)
    tile = tile_for("conv", columns, depth, x.dtype, arch)
    y = x.new_empty(rows, columns)
    args = {"x": x.contiguous(), "weight": weight, "bias": None if bias is None else bias.contiguous()}
    args |= {"table": table, "y_out": y, "n_rows": rows}
    constants = {"K": cells, "C": depth, "N": columns, "BM": tile.rows, "BN": tile.columns, "BC": tile.depth}
    constants |= {"PRECISION": precision(x.dtype, arch)}
    grid = (-(-rows // tile.rows), -(-columns // tile.columns))
    launch(x.device, Launch(conv_kernel, grid, args, constants, tile))
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
    check(OP, x)
    dy = dy.to(x.dtype).contiguous()
    dx = dw = None
    if need_dx:
        dx = _conv(dy, weight.flatten(1, 3).transpose(0, 1).contiguous(), None, table)
    if need_dw:
        cells = offsets.shape[0] - 1
        by_cell = _weight_gradient(x.contiguous(), dy, inputs, outputs, offsets, cells)  # (K, Cin, Cout)
        dw = by_cell.permute(2, 0, 1).to(weight.dtype).contiguous().view(weight.shape)
    return dx, dw


def _weight_gradient(
    x: Tensor, dy: Tensor, inputs: Tensor, outputs: Tensor, offsets: Tensor, cells: int
) -> Tensor:
    depth, columns, arch = x.shape[1], dy.shape[1], arch_of(x.device)
    tile = tile_for("weight_gradient", columns, depth, x.dtype, arch)
    tiles = -(-depth // tile.depth) * -(-columns // tile.columns)
    splits = split_count(cells * tiles, inputs.shape[0], processors(x.device))
    parts = x.new_empty((splits, cells, depth, columns), dtype=torch.float32)
    args = {"x": x, "dy": dy, "inputs": inputs, "outputs": outputs, "offsets": offsets}
    args |= {"parts_out": parts, "n_split": splits}
    constants = {"K": cells, "C": depth, "N": columns, "BM": tile.rows, "BN": tile.columns, "BC": tile.depth}
    constants |= {"PRECISION": precision(x.dtype, arch)}
    launch(x.device, Launch(weight_gradient_kernel, (cells * splits, tiles), args, constants, tile))
    return parts.sum(0)
