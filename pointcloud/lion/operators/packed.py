"""Neighbouring tokens of sequences: shifts and causal convolutions that never cross a sequence's end."""

import torch
from torch import Tensor, nn


def places(x: Tensor, cu_seqlens: Tensor | None, reverse: bool = False) -> Tensor | None:
    """Tokens of its sequence before each token (after it with ``reverse``): (N,) int64.

    None for rows, x (G, T, C) without cu_seqlens, where a place is an index.
    """
    if cu_seqlens is None:
        return None
    token = torch.arange(x.shape[1], device=x.device)
    edges = cu_seqlens.long()
    segment = torch.bucketize(token, edges[1:], right=True)  # past segments without tokens
    return edges[segment + 1] - 1 - token if reverse else token - edges[segment]


def shifted(x: Tensor, steps: int, place: Tensor | None, reverse: bool = False) -> Tensor:
    """(G, T, C) -> the token ``steps`` before each (after it with ``reverse``), zeros where there is none.

    ``place`` as ``places`` gives it for the same direction.
    """
    if steps == 0:
        return x
    tokens = x.shape[1]
    if reverse:
        moved = nn.functional.pad(x, (0, 0, 0, steps))[:, steps:]
    else:
        moved = nn.functional.pad(x, (0, 0, steps, 0))[:, :tokens]
    return moved if place is None else moved.masked_fill((place < steps).unsqueeze(-1), 0)


class CausalConv(nn.Conv1d):
    """Depthwise convolution over the last ``taps`` tokens of a sequence: y_t = b + sum_m w_m x_{t-m}.

    ``weight`` (C, 1, taps) has the oldest token first. With ``reverse`` x_{t+m}: as on the flipped sequence.
    """

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__(channels, channels, taps, groups=channels)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None, reverse: bool = False) -> Tensor:
        """(G, T, C) -> the same."""
        place = places(x, cu_seqlens, reverse)
        taps = self.weight.squeeze(1).flip(1).unbind(1)  # newest first
        y = x * taps[0] + self.bias
        for steps, weight in enumerate(taps[1:], 1):
            y = torch.addcmul(y, shifted(x, steps, place, reverse), weight)
        return y
