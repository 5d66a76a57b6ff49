"""Mixins of swapped models: a call tells the attentions its grid and its number of text tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .attention import Grid
from .grids import check_grid, grid_of_ids


def told(given: dict | None, grid: Grid, text: int) -> dict:
    """The attention keyword arguments of a call. Raises: ValueError for IP-Adapter images."""
    given = dict(given or {})
    if "ip_adapter_image_embeds" in given or "ip_hidden_states" in given:
        raise ValueError(
            "IP-Adapter images cannot be given to a model linearized by clear: its layers would go back to "
            "full attention. Call linzoo.diffusion.unlinearize(pipe) first"
        )
    given["grid"], given["text_tokens"] = grid, text
    return given


class ClearFlux:
    """The grid comes from the position ids, or as ``joint_attention_kwargs={"grid": (rows, columns)}``."""

    def grid_of(self, hidden_states: Tensor, img_ids: Tensor | None, given: dict | None) -> Grid:
        grid = (given or {}).get("grid")
        if grid is not None:
            return check_grid(grid, hidden_states.shape[1])
        return grid_of_ids(img_ids, hidden_states.shape[1])

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        pooled_projections: Tensor | None = None,
        timestep: Tensor | None = None,
        img_ids: Tensor | None = None,
        txt_ids: Tensor | None = None,
        guidance: Tensor | None = None,
        joint_attention_kwargs: dict | None = None,
        controlnet_block_samples: list[Tensor] | None = None,
        controlnet_single_block_samples: list[Tensor] | None = None,
        return_dict: bool = True,
        controlnet_blocks_repeat: bool = False,
    ) -> Any:
        grid = self.grid_of(hidden_states, img_ids, joint_attention_kwargs)
        return super().forward(
            hidden_states=hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            pooled_projections=pooled_projections,
            timestep=timestep,
            img_ids=img_ids,
            txt_ids=txt_ids,
            guidance=guidance,
            joint_attention_kwargs=told(joint_attention_kwargs, grid, encoder_hidden_states.shape[1]),
            controlnet_block_samples=controlnet_block_samples,
            controlnet_single_block_samples=controlnet_single_block_samples,
            return_dict=return_dict,
            controlnet_blocks_repeat=controlnet_blocks_repeat,
        )


class ClearLatent:
    """The grid comes from the latent's height and width, in patches."""

    def grid_of(self, hidden_states: Tensor) -> Grid:
        patch = self.config.patch_size
        return hidden_states.shape[-2] // patch, hidden_states.shape[-1] // patch


class ClearSD3(ClearLatent):
    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        pooled_projections: Tensor | None = None,
        timestep: Tensor | None = None,
        block_controlnet_hidden_states: list[Tensor] | None = None,
        joint_attention_kwargs: dict | None = None,
        return_dict: bool = True,
        skip_layers: list[int] | None = None,
    ) -> Any:
        grid = self.grid_of(hidden_states)
        return super().forward(
            hidden_states=hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            pooled_projections=pooled_projections,
            timestep=timestep,
            block_controlnet_hidden_states=block_controlnet_hidden_states,
            joint_attention_kwargs=told(joint_attention_kwargs, grid, encoder_hidden_states.shape[1]),
            return_dict=return_dict,
            skip_layers=skip_layers,
        )


class ClearDiT(ClearLatent):
    def grid_of(self, hidden_states: Tensor) -> Grid:
        rows, columns = super().grid_of(hidden_states)
        if rows != columns:  # a rectangle with a square number of tokens would come out as another picture
            raise ValueError(
                "hidden_states must be a square latent: diffusers' DiT puts its output together as one, got "
                f"{tuple(hidden_states.shape[-2:])}"
            )
        return rows, columns

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | None = None,
        class_labels: Tensor | None = None,
        cross_attention_kwargs: dict | None = None,
        return_dict: bool = True,
    ) -> Any:
        return super().forward(
            hidden_states=hidden_states,
            timestep=timestep,
            class_labels=class_labels,
            cross_attention_kwargs=told(cross_attention_kwargs, self.grid_of(hidden_states), 0),
            return_dict=return_dict,
        )
