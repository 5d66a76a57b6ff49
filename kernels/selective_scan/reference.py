"""The definition, token by token, which every faster form is compared with; slow, left to autograd.

Computed in float64 whatever the input; the results are rounded once, to what the faster forms return.

    h_t = e^{delta_t A} h_{t-1} + delta_t u_t B_t      y_t = <C_t, h_t> + D u_t
"""

from itertools import pairwise

import torch
from torch import Tensor

from ..checks import accumulation_dtype


def sequences(u: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> list[tuple[int, list[int]]]:
    """The row and the tokens, in the order of the scan, of every state."""
    if cu_seqlens is None:
        runs = [(b, range(u.shape[1])) for b in range(u.shape[0])]
    else:
        runs = [(0, range(a, b)) for a, b in pairwise(cu_seqlens.tolist())]
    return [(b, list(reversed(own) if reverse else own)) for b, own in runs]


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial: Tensor | None,
    reverse: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    acc, dtype = accumulation_dtype(u.dtype), u.dtype
    u, delta, A, B, C, D, initial = (
        None if x is None else x.double() for x in (u, delta, A, B, C, D, initial)
    )
    rows: list[list[Tensor]] = [[] for _ in range(u.shape[0])]
    finals = []
    for r, (b, order) in enumerate(sequences(u, cu_seqlens, reverse)):
        h = torch.zeros_like(A) if initial is None else initial[r]  # (C, S)
        own = []
        for t in order:
            step = delta[b, t].unsqueeze(-1)  # (C, 1)
            h = (step * A).exp() * h + step * u[b, t].unsqueeze(-1) * B[b, t]
            y = (h * C[b, t]).sum(-1)
            own.append(y if D is None else y + D * u[b, t])
        rows[b] += reversed(own) if reverse else own
        finals.append(h)
    return torch.stack([torch.stack(own) for own in rows]).to(dtype), torch.stack(finals).to(acc)
