"""Attention over tiles of tokens: states of linear attention add, a query of text attention stands alone."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from ...kernels import lin_readout, lin_reduce
from ..swap import OwnProcessor
from .forwards import Forward, by_parts, token_parts, wrap


def stream_attentions(stack: ExitStack, model: nn.Module, tokens: int) -> int:
    """LinFusion's attentions and ``model``'s cross-attentions to text. Returns: how many of the former."""
    from diffusers.models.attention import BasicTransformerBlock

    found = 0
    for module in model.modules():
        if isinstance(module, OwnProcessor) and module.METHOD == "linfusion":
            wrap(stack, module, _streamed(module, tokens))
            found += 1
        elif isinstance(module, BasicTransformerBlock) and module.attn2 is not None:
            wrap(stack, module.attn2, _queries_in_turn(tokens))
    return found


def _streamed(attn: nn.Module, tokens: int) -> Forward:
    """One pass over the tokens for the state, one that reads it: q, k and v are never whole."""
    from ..linfusion.attention import EPS

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (attn.heads, -1))

    def state_of(x: Tensor) -> Any:
        k, v = heads(attn.to_k(x + attn.to_k_(x))), heads(attn.to_v(x))
        return lin_reduce(k, v, feature="elu1", norm="sum")

    def read(x: Tensor, state: Any) -> Tensor:
        q = heads(attn.to_q(x + attn.to_q_(x)))
        return attn.processor.leave(
            attn, lin_readout(q, state, feature="elu1", norm="sum", eps=EPS, eps_on="mean")
        )

    def around(inner: Forward, hidden_states: Tensor, *args: Any, **words: Any) -> Tensor:
        if hidden_states.ndim != 3 or hidden_states.shape[1] <= tokens:
            return inner(hidden_states, *args, **words)
        parts = token_parts(hidden_states, tokens)
        state = attn.merge_state(sum(state_of(hidden_states[:, part]) for part in parts))
        return by_parts(lambda part: read(hidden_states[:, part], state), hidden_states, tokens)

    return around


def _queries_in_turn(tokens: int) -> Forward:
    def around(
        inner: Forward, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **words: Any
    ) -> Tensor:
        whole = encoder_hidden_states is None or hidden_states.ndim != 3 or "ip_adapter_masks" in words
        if whole or hidden_states.shape[1] <= tokens:
            return inner(hidden_states, encoder_hidden_states=encoder_hidden_states, **words)

        def part_of(part: slice) -> Tensor:
            return inner(hidden_states[:, part], encoder_hidden_states=encoder_hidden_states, **words)

        return by_parts(part_of, hidden_states, tokens)

    return around
