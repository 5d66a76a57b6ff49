"""LinFusion over ranks: every rank reduces its own tokens to a state, and the states add.

    S = sum over ranks and their tokens j of phi(k_j) v_j^T        s = sum of phi(k_j)        n = sum of 1

One message of B (H D (D + 1) + 1) numbers, whatever the number of tokens. Plain sums and counts: bands of
unequal height weigh what they hold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...kernels import LinState
from .place import Parallel, Place


class BandLinFusion(Parallel):
    """The attention's class while parallel: between reduce and readout the states are merged."""

    def merge_state(self, state: LinState) -> LinState:
        return sum_of_states(state, self.place)


def sum_of_states(state: LinState, place: Place) -> LinState:
    """The state of all ranks' tokens, for norm "sum", which does not read m: it is not sent, and 0 here."""
    count = state.n.to(state.s).unsqueeze(-1)  # exact to 2^24 tokens, beyond to 1 part in 2^24
    parts: tuple[Tensor, ...] = (state.S.flatten(1), state.s.flatten(1), count)
    packed = place.link.sum(torch.cat(parts, 1), place.sender("state"))
    S, s, n = packed.split([part.shape[1] for part in parts], 1)
    n = n.squeeze(1).round().to(torch.int64)
    return LinState(S.reshape(state.S.shape), s.reshape(state.s.shape), torch.zeros_like(state.m), n)
