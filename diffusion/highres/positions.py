"""How CLEAR (arXiv 2412.16112) stretches FLUX to sizes above its own: for one rung, put back after it.

The rotary base becomes 10,000 times ``ntk_factor``; scores grow with the logarithm of the number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

THETA = 10_000  # FLUX's rotary base


def check_positions(pipe: Any, ntk_factor: float | None, proportional_attention: bool | None) -> None:
    """Raises: ValueError when the model has no rotary base, or no attention that can be proportional."""
    model = getattr(pipe, "transformer", None)
    if ntk_factor is not None:
        if not hasattr(getattr(model, "pos_embed", None), "theta"):
            raise ValueError(f"ntk_factor needs rotary positions (FLUX), got {type(pipe).__name__}")
        if not ntk_factor > 0:
            raise ValueError(f"ntk_factor must be > 0, got {ntk_factor}")
    if proportional_attention is not None:
        from ..linearize import linearized

        handle = linearized(pipe)
        if handle is None or handle.method.name != "clear":
            have = "softmax attention" if handle is None else handle.method.name
            raise ValueError(
                f"proportional_attention needs linearize(pipe, method='clear'), got a model with {have}"
            )


@contextmanager
def positions(
    pipe: Any, ntk_factor: float | None, proportional_attention: bool | None, words: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Within: the rotary base is the rung's. Gives the words that the call needs beside ``words``."""
    extra = {}
    if proportional_attention is not None:
        own = {"proportional_attention": proportional_attention}
        extra["joint_attention_kwargs"] = own | dict(words.get("joint_attention_kwargs") or {})
    if ntk_factor is None:
        yield extra
        return
    embed = pipe.transformer.pos_embed
    before = embed.theta
    embed.theta = THETA * ntk_factor
    try:
        yield extra
    finally:
        embed.theta = before
