"""The definitions, one kernel cell at a time, in float64, left to autograd; memory is n_in x n_out.

y_o = b + sum over kernel cells k and pairs (i, o) of k of  W_k x_i        W_k (Cout, Cin)
y_o =     sum over kernel cells k and pairs (i, o) of k of  w_k * x_i      w_k (C,)
"""

import torch
from torch import Tensor

from .pairs import ConvPairs


def selections(pairs: ConvPairs) -> list[Tensor]:
    """Per kernel cell (n_out, n_in) float64: 1 where the pair (input, output) is listed."""
    found = []
    for first, last in zip(pairs.offsets[:-1].tolist(), pairs.offsets[1:].tolist(), strict=True):
        meets = torch.zeros(pairs.n_out, pairs.n_in, dtype=torch.float64, device=pairs.inputs.device)
        meets[pairs.outputs[first:last], pairs.inputs[first:last]] = 1
        found.append(meets)
    return found


def sparse_conv_reference(x: Tensor, weight: Tensor, bias: Tensor | None, pairs: ConvPairs) -> Tensor:
    by_cell = weight.double().flatten(1, 3).unbind(1)  # K of (Cout, Cin)
    y = sum(s @ x.double() @ w.t() for s, w in zip(selections(pairs), by_cell, strict=True))
    return (y if bias is None else y + bias.double()).to(x.dtype)


def depthwise_sparse_conv_reference(x: Tensor, weight: Tensor, pairs: ConvPairs) -> Tensor:
    by_cell = weight.double().flatten(0, 2).unbind(0)  # K of (C,)
    return sum(s @ x.double() * w for s, w in zip(selections(pairs), by_cell, strict=True)).to(x.dtype)
