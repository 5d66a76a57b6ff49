"""What a pipeline calls its denoiser with at one size, without numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

TEXT_TOKENS = {
    "UNet2DConditionModel": 77, "FluxTransformer2DModel": 512, "SD3Transformer2DModel": 333,
    "PixArtTransformer2DModel": 300, "DiTTransformer2DModel": 0,
}  # fmt: skip


def kind_of(model: nn.Module) -> str:
    """The diffusers class that ``model`` is. Raises: ValueError for one that plans do not know."""
    for cls in type(model).__mro__:
        if cls.__name__ in TEXT_TOKENS:
            return cls.__name__
    raise ValueError(f"plan knows {', '.join(TEXT_TOKENS)}, got {type(model).__name__}")


def guided(model: nn.Module) -> bool:
    """Whether pipelines call this model with two rows an image."""
    return kind_of(model) != "FluxTransformer2DModel"


def denoiser_inputs(
    model: nn.Module, latent: tuple[int, int], rows: int, text: int, dtype: torch.dtype
) -> dict[str, Any]:
    """Keyword arguments of one call on the meta device, ``latent`` (height, width)."""

    def empty(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=kind, device="meta")

    words = MAKERS[kind_of(model)](model.config, latent, rows, text, empty)
    if "img_ids" in words and hasattr(model, "grid_of"):  # CLEAR would read the ids, which hold nothing here
        words["joint_attention_kwargs"] = {"grid": (latent[0] // 2, latent[1] // 2)}
    return words


def unet(config: Any, latent: tuple[int, int], rows: int, text: int, empty: Any) -> dict[str, Any]:
    words = {
        "sample": empty(rows, config.in_channels, *latent),
        "timestep": empty(kind=torch.int64),
        "encoder_hidden_states": empty(rows, text, config.cross_attention_dim),
    }
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        words["added_cond_kwargs"] = {"text_embeds": empty(rows, pooled), "time_ids": empty(rows, 6)}
    elif config.addition_embed_type or config.class_embed_type or config.encoder_hid_dim_type:
        raise ValueError("plan knows UNets whose conditions are text, or text and sizes (SD-XL)")
    return words


def flux(config: Any, latent: tuple[int, int], rows: int, text: int, empty: Any) -> dict[str, Any]:
    grid = (latent[0] // 2, latent[1] // 2)  # pixels of the latent are packed by 2 x 2
    words = {
        "hidden_states": empty(rows, grid[0] * grid[1], config.in_channels),
        "encoder_hidden_states": empty(rows, text, config.joint_attention_dim),
        "pooled_projections": empty(rows, config.pooled_projection_dim),
        "timestep": empty(rows),
        "img_ids": empty(grid[0] * grid[1], 3),
        "txt_ids": empty(text, 3),
    }
    return words | ({"guidance": empty(rows)} if config.guidance_embeds else {})


def sd3(config: Any, latent: tuple[int, int], rows: int, text: int, empty: Any) -> dict[str, Any]:
    return {
        "hidden_states": empty(rows, config.in_channels, *latent),
        "encoder_hidden_states": empty(rows, text, config.joint_attention_dim),
        "pooled_projections": empty(rows, config.pooled_projection_dim),
        "timestep": empty(rows),
    }


def pixart(config: Any, latent: tuple[int, int], rows: int, text: int, empty: Any) -> dict[str, Any]:
    conditions = {"resolution": empty(rows, 2), "aspect_ratio": empty(rows, 1)}
    conditions = conditions if config.use_additional_conditions else dict.fromkeys(conditions)
    return {
        "hidden_states": empty(rows, config.in_channels, *latent),
        "encoder_hidden_states": empty(rows, text, config.caption_channels),
        "encoder_attention_mask": empty(rows, text),
        "timestep": empty(rows),
        "added_cond_kwargs": conditions,
    }


def dit(config: Any, latent: tuple[int, int], rows: int, text: int, empty: Any) -> dict[str, Any]:
    return {
        "hidden_states": empty(rows, config.in_channels, *latent),
        "timestep": empty(rows),
        "class_labels": empty(rows, kind=torch.int64),
    }


MAKERS = {
    "UNet2DConditionModel": unet, "FluxTransformer2DModel": flux, "SD3Transformer2DModel": sd3,
    "PixArtTransformer2DModel": pixart, "DiTTransformer2DModel": dit,
}  # fmt: skip
