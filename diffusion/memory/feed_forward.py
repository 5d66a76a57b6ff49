"""Feed-forwards over a few tokens at a time: what is wide in between never exists for all of them.

diffusers' own chunking wants a number of tokens that the chunk divides, and FLUX has none.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .forwards import Forward, by_parts, wrap


def chunk_feed_forwards(stack: ExitStack, model: nn.Module, tokens: int) -> int:
    """Every diffusers FeedForward of ``model``, and the MLPs of FLUX's single blocks. Returns: how many."""
    from diffusers.models.attention import FeedForward
    from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock

    found = 0
    for module in model.modules():
        if isinstance(module, FeedForward):
            wrap(stack, module, _chunked(tokens))
        elif isinstance(module, FluxSingleTransformerBlock):
            chunk_single(stack, module, tokens)
        else:
            continue
        found += 1
    return found


def _chunked(tokens: int) -> Forward:
    def around(inner: Forward, hidden_states: Tensor, *args: Any, **words: Any) -> Tensor:
        if hidden_states.ndim != 3 or hidden_states.shape[1] <= tokens:
            return inner(hidden_states, *args, **words)
        return by_parts(lambda part: inner(hidden_states[:, part], *args, **words), hidden_states, tokens)

    return around


class Pending:
    """What FLUX's single block would get from its wide layer, not computed yet.

    The block concatenates it to the attention's output and projects; torch hands that ``torch.cat`` to this
    class, and the projection, chunked, computes both for a few tokens at a time.
    """

    def __init__(self, x: Tensor, layers: tuple[Forward, ...] = (), beside: tuple[Tensor, ...] = ()) -> None:
        self.x, self.layers, self.beside = x, layers, beside

    def then(self, layer: Forward) -> Pending:
        return Pending(self.x, (*self.layers, layer), self.beside)

    def part(self, tokens: slice) -> Tensor:
        y = self.x[:, tokens]
        for layer in self.layers:
            y = layer(y)
        return torch.cat([*(left[:, tokens] for left in self.beside), y], -1)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple = (), words: dict | None = None
    ) -> Pending:
        parts, dim = args[0], (words or {}).get("dim", args[1] if len(args) > 1 else 0)
        if function is not torch.cat or dim not in (2, -1) or not isinstance(parts[-1], Pending):
            raise TypeError(f"a chunked FLUX block can only concatenate its MLP, got {function}")
        last = parts[-1]
        return Pending(last.x, last.layers, (*parts[:-1], *last.beside))


def chunk_single(stack: ExitStack, block: nn.Module, tokens: int) -> None:
    def wide(inner: Forward, x: Tensor) -> Tensor | Pending:
        return Pending(x, (inner,)) if x.shape[1] > tokens else inner(x)

    def act(inner: Forward, x: Tensor | Pending) -> Tensor | Pending:
        return x.then(inner) if isinstance(x, Pending) else inner(x)

    def narrow(inner: Forward, x: Tensor | Pending) -> Tensor:
        return by_parts(lambda part: inner(x.part(part)), x.x, tokens) if isinstance(x, Pending) else inner(x)

    wrap(stack, block.proj_mlp, wide)
    wrap(stack, block.act_mlp, act)
    wrap(stack, block.proj_out, narrow)
