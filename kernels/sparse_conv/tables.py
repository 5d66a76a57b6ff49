"""What Triton kernels read in place of pair lists: for every output row its input row in each kernel cell.

Output rows are taken in the order of which kernel cells they have, so that the rows of one tile have mostly
the same ones and the tile can skip the others.
"""

import torch
from torch import Tensor

SORTABLE = 62  # kernel cells whose pattern fits an int64


def table_of(inputs: Tensor, outputs: Tensor, offsets: Tensor, n_out: int) -> Tensor:
    """(K + 1, n_out) int32: row k has input rows, -1 for none; row K says which output row a column is.

    inputs, outputs (P,), offsets (K + 1,) on the same device.
    """
    count, device = offsets.shape[0] - 1, inputs.device
    cell = torch.searchsorted(offsets[1:], torch.arange(inputs.shape[0], device=device), right=True)
    sources = torch.full((count, n_out), -1, dtype=torch.int32, device=device)
    sources[cell, outputs] = inputs.int()
    if count > SORTABLE:
        order = torch.arange(n_out, device=device)
    else:
        pattern = torch.zeros(n_out, dtype=torch.int64, device=device)
        pattern = pattern.index_add(
            0, outputs, torch.ones_like(cell) << cell
        )  # integers: any order, same sum
        order = torch.argsort(pattern, stable=True)
    return torch.cat((sources[:, order], order.int().unsqueeze(0)))
