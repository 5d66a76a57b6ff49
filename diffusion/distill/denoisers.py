"""How each diffusers model is called: noisy latents, timesteps and conditions to a prediction.

Conditions are tensors with a row a picture: ``prompt`` (embeddings), ``pooled``, ``mask``, ``time_ids``,
``labels``; each model takes those it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

Conditions = Mapping[str, Tensor]


class Denoiser:
    """One model class's call.

    Args:
        model: only its config is kept.
        guidance: the embedded guidance of models that take one (FLUX.1-dev).
    """

    needs: ClassVar[tuple[str, ...]] = ()  # the conditions it reads
    objectives: ClassVar[tuple[str, ...]]  # those that fit what it predicts

    def __init__(self, model: nn.Module, guidance: float = 3.5) -> None:
        self.config, self.guidance = model.config, guidance

    def predict(self, net: Callable[..., Any], noisy: Tensor, timesteps: Tensor, given: Conditions) -> Tensor:
        """(B, C, h, w), (B,) in training steps, conditions -> (B, C or 2 C, h, w)."""
        raise NotImplementedError

    def absent(self, given: Conditions) -> dict[str, Tensor]:
        """The conditions of classifier-free guidance's other half, where the model itself knows them."""
        raise ValueError(f"guidance must be 1: no empty condition is known for {sorted(given)}")


class UNet(Denoiser):
    needs = ("prompt",)
    objectives = ("linfusion", "lit")

    def predict(self, net: Callable[..., Any], noisy: Tensor, timesteps: Tensor, given: Conditions) -> Tensor:
        return net(noisy, timesteps, encoder_hidden_states=given["prompt"], **self.more(given)).sample

    def more(self, given: Conditions) -> dict[str, Any]:
        return {}


class UNetXL(UNet):
    needs = ("prompt", "pooled", "time_ids")

    def more(self, given: Conditions) -> dict[str, Any]:
        return {"added_cond_kwargs": {"text_embeds": given["pooled"], "time_ids": given["time_ids"]}}


class DiT(Denoiser):
    needs = ("labels",)
    objectives = ("lit",)

    def predict(self, net: Callable[..., Any], noisy: Tensor, timesteps: Tensor, given: Conditions) -> Tensor:
        return net(noisy, timestep=timesteps, class_labels=given["labels"]).sample

    def absent(self, given: Conditions) -> dict[str, Tensor]:
        return {"labels": torch.full_like(given["labels"], self.config.num_embeds_ada_norm)}


class PixArt(Denoiser):
    needs = ("prompt", "mask")
    objectives = ("lit",)

    def predict(self, net: Callable[..., Any], noisy: Tensor, timesteps: Tensor, given: Conditions) -> Tensor:
        return net(
            noisy,
            encoder_hidden_states=given["prompt"],
            encoder_attention_mask=given["mask"],
            timestep=timesteps,
            added_cond_kwargs=self.sizes(noisy),
        ).sample

    def sizes(self, noisy: Tensor) -> dict[str, Tensor | None]:
        """PixArt-alpha at 1024 is told the size in pixels and the aspect ratio."""
        extra = self.config.use_additional_conditions
        if extra is None:
            extra = self.config.sample_size == 128
        if not extra:
            return {"resolution": None, "aspect_ratio": None}
        height, width = (8.0 * side for side in noisy.shape[-2:])
        rows = len(noisy)
        return {
            "resolution": noisy.new_tensor([height, width]).repeat(rows, 1),
            "aspect_ratio": noisy.new_tensor([height / width]).repeat(rows, 1),
        }


class Flux(Denoiser):
    needs = ("prompt", "pooled")
    objectives = ("clear",)

    def predict(self, net: Callable[..., Any], noisy: Tensor, timesteps: Tensor, given: Conditions) -> Tensor:
        rows, columns = (side // 2 for side in noisy.shape[-2:])
        guidance = noisy.new_full((len(noisy),), self.guidance) if self.config.guidance_embeds else None
        velocity = net(
            hidden_states=pack(noisy),
            timestep=timesteps / 1000,
            guidance=guidance,
            pooled_projections=given["pooled"],
            encoder_hidden_states=given["prompt"],
            txt_ids=noisy.new_zeros(given["prompt"].shape[1], 3),
            img_ids=positions(rows, columns, noisy),
        ).sample
        return unpack(velocity, rows, columns)


class SD3(Denoiser):
    needs = ("prompt", "pooled")
    objectives = ("clear",)

    def predict(self, net: Callable[..., Any], noisy: Tensor, timesteps: Tensor, given: Conditions) -> Tensor:
        return net(
            hidden_states=noisy,
            timestep=timesteps,
            encoder_hidden_states=given["prompt"],
            pooled_projections=given["pooled"],
        ).sample


def pack(latents: Tensor) -> Tensor:
    """2 x 2 positions a token: (B, C, 2 rows, 2 columns) -> (B, rows * columns, 4 C)."""
    tokens = latents.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # B, C, rows, 2, columns, 2
    return tokens.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """The opposite of ``pack``."""
    latents = tokens.unflatten(2, (-1, 2, 2)).unflatten(1, (rows, columns))  # B, rows, columns, C, 2, 2
    return latents.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def positions(rows: int, columns: int, like: Tensor) -> Tensor:
    """(rows * columns, 3): 0, row, column of each token."""
    ids = like.new_zeros(rows, columns, 3)
    ids[..., 1] = torch.arange(rows, device=like.device)[:, None]
    ids[..., 2] = torch.arange(columns, device=like.device)
    return ids.flatten(0, 1)


DENOISERS: dict[str, type[Denoiser]] = {
    "UNet2DConditionModel": UNet,
    "DiTTransformer2DModel": DiT,
    "PixArtTransformer2DModel": PixArt,
    "FluxTransformer2DModel": Flux,
    "SD3Transformer2DModel": SD3,
}


def denoiser_of(model: nn.Module, guidance: float = 3.5) -> Denoiser:
    """Raises: ValueError for a model whose call is not known here."""
    name = next((cls.__name__ for cls in type(model).__mro__ if cls.__name__ in DENOISERS), None)
    if name is None:
        raise ValueError(f"model must be one of {', '.join(DENOISERS)}, got {type(model).__name__}")
    found = DENOISERS[name]
    if found is UNet and model.config.addition_embed_type == "text_time":
        found = UNetXL
    return found(model, guidance)
