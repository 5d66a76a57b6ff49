"""What a call of a swapped model tells its attentions: the grid of image tokens, from the latent's shape.

It travels with the arguments of each block, so that gradient checkpointing repeats a block with its own grid,
and copies, threads and compiled graphs share nothing.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..method import Grid
from .attention import grid_as_mask


def token_grid(latent: Tensor, patch: int) -> Grid:
    """(B, C, height, width) -> rows, columns of patches."""
    return latent.shape[-2] // patch, latent.shape[-1] // patch


class LitDiT:
    """Mixin of DiTTransformer2DModel."""

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | None = None,
        class_labels: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """As in diffusers; latents that are not square work too."""
        grid = token_grid(hidden_states, self.config.patch_size)
        words = {**(cross_attention_kwargs or {}), "grid": grid}
        if is_square(grid):
            return super().forward(hidden_states, timestep, class_labels, words, return_dict)
        tokens = self.pos_embed(hidden_states)
        for block in self.transformer_blocks:
            arguments = (tokens, None, None, None, timestep, words, class_labels)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(block, *arguments)
            else:
                tokens = block(*arguments)
        sample = unpatched(self.out_tokens(tokens, timestep, class_labels), grid, self.config.patch_size)
        if not return_dict:
            return (sample,)
        from diffusers.models.modeling_outputs import Transformer2DModelOutput

        return Transformer2DModelOutput(sample=sample)

    def out_tokens(self, tokens: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        """The last layer of DiT; diffusers' own puts its result into a square whatever the latent was."""
        embedding = self.transformer_blocks[0].norm1.emb(timestep, class_labels, hidden_dtype=tokens.dtype)
        shift, scale = self.proj_out_1(F.silu(embedding)).unsqueeze(1).chunk(2, dim=-1)
        return self.proj_out_2(self.norm_out(tokens) * (1 + scale) + shift)


class LitPixArt:
    """Mixin of PixArtTransformer2DModel."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        timestep: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        attention_mask: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """As in diffusers, which gives ``attention_mask`` to self-attention: that must be None here.

        Raises: ValueError when it is not.
        """
        if attention_mask is not None:
            raise ValueError(
                f"attention_mask must be None, got shape {tuple(attention_mask.shape)}: it would mask image "
                "tokens, which LiT cannot. A mask over text belongs in encoder_attention_mask"
            )
        grid = token_grid(hidden_states, self.config.patch_size)
        return super().forward(
            hidden_states,
            encoder_hidden_states,
            timestep,
            added_cond_kwargs,
            cross_attention_kwargs,
            grid_as_mask(hidden_states, grid),
            encoder_attention_mask,
            return_dict,
        )


def is_square(grid: Grid) -> bool:
    return grid[0] == grid[1]


def unpatched(tokens: Tensor, grid: Grid, patch: int) -> Tensor:
    """(B, rows * columns, patch * patch * C) -> (B, C, rows * patch, columns * patch)."""
    image = tokens.unflatten(2, (patch, patch, -1)).unflatten(1, grid)  # (B, rows, columns, y, x, C)
    return image.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


MIXINS = {"DiTTransformer2DModel": LitDiT, "PixArtTransformer2DModel": LitPixArt}
