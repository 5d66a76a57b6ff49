"""LinFusion over ranks: every rank reduces its own tokens to a state, and the states add.

    S = sum over ranks and their tokens j of phi(k_j) v_j^T        s = sum of phi(k_j)        n = sum of 1

One message of B (H D (D + 1) + 1) numbers, whatever the number of tokens. Plain sums and counts: bands of
unequal height weigh what they hold.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...kernels import LinState, lin_readout, lin_reduce
from ..linfusion.attention import EPS, LinFusionAttnProcessor
from .place import Parallel, Place


def merge_state(state: LinState, place: Place) -> LinState:
    """The state of all ranks' tokens, for norm "sum", which does not read m: it is not sent, and 0 here."""
    count = state.n.to(state.s).unsqueeze(-1)  # exact to 2^24 tokens, beyond to 1 part in 2^24
    parts = (state.S.flatten(1), state.s.flatten(1), count)
    packed = place.link.sum(torch.cat(parts, 1), place.sender("state"))
    S, s, n = packed.split([part.shape[1] for part in parts], 1)
    n = n.squeeze(1).round().to(torch.int64)
    return LinState(S.reshape(state.S.shape), s.reshape(state.s.shape), torch.zeros_like(state.m), n)


class BandLinFusionProcessor(LinFusionAttnProcessor):
    """Projections are local; between reduce and readout the states are merged."""

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """(B, own tokens, C) -> (B, own tokens, C)."""
        q, k, v = self.project(attn, hidden_states)
        state = merge_state(lin_reduce(k, v, feature="elu1", norm="sum"), attn.place)
        return self.leave(attn, lin_readout(q, state, feature="elu1", norm="sum", eps=EPS, eps_on="mean"))


class BandLinFusion(Parallel):
    """The attention's class while parallel; only the processor differs."""

    PROCESSOR = BandLinFusionProcessor

    def entered(self) -> None:
        self.__dict__["own_processor"] = self.PROCESSOR()

    def leaving(self) -> None:
        self.__dict__["own_processor"] = self.BASE.PROCESSOR()


def check_processor(name: str, attn: nn.Module) -> None:
    """Raises: ValueError when something else runs the attention already."""
    kind = type(attn.processor)
    if kind is not LinFusionAttnProcessor:
        raise ValueError(
            f"parallelize: {name} must have its LinFusionAttnProcessor, got {kind.__name__}; switch off "
            "what put it there"
        )
