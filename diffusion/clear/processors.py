"""What diffusers calls in place of its softmax: projections, norms and rotary as they were, then CLEAR.

Stateless: weights and options lie on the attention module (``modules.py``). The grid and the number of text
tokens come with every call, put by the model's forward among its attention keyword arguments.
"""

from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from .attention import Grid

Pair = tuple[Tensor, Tensor]


class FluxClearProcessor:
    """FluxAttention: text before the image, rotary on both."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Pair | None = None,
        grid: Grid | None = None,
        text_tokens: int | None = None,
        proportional_attention: bool | None = None,
    ) -> Tensor | Pair:
        q, k, v = image_side(attn, hidden_states, attn.head_dim)
        if encoder_hidden_states is not None:  # one after the other: each frees what it was made of
            text_q, text_k, text_v = text_side(attn, encoder_hidden_states, attn.head_dim)
            q = torch.cat((text_q, q), dim=1)
            k = torch.cat((text_k, k), dim=1)
            v = torch.cat((text_v, v), dim=1)
        if image_rotary_emb is not None:  # in float32, whatever the dtype
            q = apply_rotary_emb(q, image_rotary_emb, sequence_dim=1)
            k = apply_rotary_emb(k, image_rotary_emb, sequence_dim=1)
        text_tokens = check_call(q, grid, text_tokens, attention_mask)
        y = attn.attend(q, k, v, grid, text_tokens, proportional_attention).flatten(2)
        if encoder_hidden_states is None:
            return y
        count = encoder_hidden_states.shape[1]
        return project_out(attn, y[:, count:]), attn.to_add_out(y[:, :count])


class JointClearProcessor:
    """``Attention`` of SD3 (text after the image, no rotary) and of DiT (no text)."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        grid: Grid | None = None,
        text_tokens: int | None = None,
        proportional_attention: bool | None = None,
    ) -> Tensor | Pair:
        dim = attn.inner_dim // attn.heads
        q, k, v = image_side(attn, hidden_states, dim)
        if encoder_hidden_states is not None:
            text_q, text_k, text_v = text_side(attn, encoder_hidden_states, dim)
            q = torch.cat((q, text_q), dim=1)
            k = torch.cat((k, text_k), dim=1)
            v = torch.cat((v, text_v), dim=1)
        text_tokens = check_call(q, grid, text_tokens, attention_mask)
        y = attn.attend(q, k, v, grid, text_tokens, proportional_attention).flatten(2)
        if encoder_hidden_states is None:
            return project_out(attn, y)
        image, text = y[:, : hidden_states.shape[1]], y[:, hidden_states.shape[1] :]
        return project_out(attn, image), text if attn.context_pre_only else attn.to_add_out(text)


def check_call(q: Tensor, grid: Grid | None, text: int | None, mask: Tensor | None) -> int:
    """The number of text tokens. Raises: ValueError where a call lacks its grid or asks for a mask."""
    if grid is None:
        raise ValueError(
            "grid must be (rows, columns) of the image tokens, got None: call the linearized model, which "
            "passes it on, or give the attention grid=(rows, columns)"
        )
    if mask is not None:
        raise ValueError(
            f"attention_mask must be None, got {tuple(mask.shape)}: image tokens see their disc and all text"
        )
    return q.shape[1] - grid[0] * grid[1] if text is None else text


def image_side(attn: Any, x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, C) -> queries, keys, values (B, N, heads, dim). Heads may be fewer than attn.heads (sharded)."""
    q = normed(attn.norm_q, attn.to_q(x).unflatten(-1, (-1, dim)))
    k = normed(attn.norm_k, attn.to_k(x).unflatten(-1, (-1, dim)))
    return q, k, attn.to_v(x).unflatten(-1, (-1, dim))


def text_side(attn: Any, x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    q = normed(attn.norm_added_q, attn.add_q_proj(x).unflatten(-1, (-1, dim)))
    k = normed(attn.norm_added_k, attn.add_k_proj(x).unflatten(-1, (-1, dim)))
    return q, k, attn.add_v_proj(x).unflatten(-1, (-1, dim))


def normed(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def project_out(attn: Any, x: Tensor) -> Tensor:
    linear, dropout = attn.to_out
    return dropout(linear(x))
