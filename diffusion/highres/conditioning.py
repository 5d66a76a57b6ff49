"""SD-XL's prompt, sizes and guidance, prepared once for all rungs; the guided prediction made from them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Size = tuple[int, int]  # height, width in pixels

# words of the pipeline's call that the rungs take too
PROMPT = (
    "prompt",
    "prompt_2",
    "negative_prompt",
    "negative_prompt_2",
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
    "clip_skip",
)
SIZES = (
    "original_size",
    "crops_coords_top_left",
    "target_size",
    "negative_original_size",
    "negative_crops_coords_top_left",
    "negative_target_size",
)
IMAGES = ("ip_adapter_image", "ip_adapter_image_embeds")
WORDS = (*PROMPT, *SIZES, *IMAGES, "guidance_scale", "guidance_rescale", "cross_attention_kwargs", "eta")


@dataclass(slots=True)
class Conditioning:
    """What the UNet is told beside the latents; with guidance, the negative half comes first."""

    prompt_embeds: Tensor
    added: dict[str, Any]
    guidance_scale: float
    guidance_rescale: float
    cross_attention_kwargs: dict | None

    @property
    def guided(self) -> bool:
        return self.guidance_scale > 1

    @classmethod
    def of(cls, pipe: Any, size: Size, words: dict[str, Any]) -> Conditioning:
        """From the words of the pipeline's call.

        Args:
            size: what ``original_size`` and ``target_size`` are unless the words say otherwise.
        """
        scale = float(words.get("guidance_scale", 5.0))
        attention = words.get("cross_attention_kwargs")
        embeds, negative, pooled, negative_pooled = pipe.encode_prompt(
            **{"prompt": None, **{name: words[name] for name in PROMPT if name in words}},
            device=pipe._execution_device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=scale > 1,
            lora_scale=(attention or {}).get("scale"),
        )
        ids = time_ids(size, words)
        if scale > 1:
            embeds, pooled = torch.cat([negative, embeds]), torch.cat([negative_pooled, pooled])
            ids = [*negative_time_ids(size, words), *ids]
        device = pipe._execution_device
        added = {
            "text_embeds": pooled.to(device),
            "time_ids": torch.tensor(ids, dtype=embeds.dtype, device=device),
        }
        if any(words.get(name) is not None for name in IMAGES):
            added["image_embeds"] = pipe.prepare_ip_adapter_image_embeds(
                *(words.get(name) for name in IMAGES), device, 1, scale > 1
            )
        rescale = float(words.get("guidance_rescale", 0.0))
        return cls(embeds.to(device), added, scale, rescale, attention)

    def predict(self, pipe: Any, latents: Tensor, t: Tensor) -> Tensor:
        """The UNet's guided prediction at timestep ``t`` for (1, C, height, width)."""
        both = torch.cat([latents] * 2) if self.guided else latents
        prediction = pipe.unet(
            pipe.scheduler.scale_model_input(both, t),
            t,
            encoder_hidden_states=self.prompt_embeds,
            added_cond_kwargs=self.added,
            cross_attention_kwargs=self.cross_attention_kwargs,
            return_dict=False,
        )[0]
        if not self.guided:
            return prediction
        negative, positive = prediction.chunk(2)
        prediction = negative + self.guidance_scale * (positive - negative)
        if self.guidance_rescale > 0:
            from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import rescale_noise_cfg

            return rescale_noise_cfg(prediction, positive, guidance_rescale=self.guidance_rescale)
        return prediction


def time_ids(size: Size, words: dict[str, Any]) -> list[list[int]]:
    original, target = (words.get(name) or size for name in ("original_size", "target_size"))
    return [[*original, *words.get("crops_coords_top_left", (0, 0)), *target]]


def negative_time_ids(size: Size, words: dict[str, Any]) -> list[list[int]]:
    """Those of the words, where both negative sizes are given; else the positive ones, as in diffusers."""
    original, target = (words.get(name) for name in ("negative_original_size", "negative_target_size"))
    if original is None or target is None:
        return time_ids(size, words)
    return [[*original, *words.get("negative_crops_coords_top_left", (0, 0)), *target]]


def check_sdxl(pipe: Any, words: dict[str, Any]) -> None:
    """Raises: ValueError when the pipeline or a word of its call is not one that the rungs take."""
    config = getattr(getattr(pipe, "unet", None), "config", {})
    if config.get("addition_embed_type") != "text_time" or not hasattr(pipe, "encode_prompt"):
        name = type(pipe).__name__
        raise ValueError(f"pipe must be a StableDiffusionXLPipeline, got {name}; highres.ladder takes others")
    if pipe.config.get("requires_aesthetics_score"):
        raise ValueError("pipe must be a base model, got a refiner (requires_aesthetics_score)")
    if config.get("time_cond_proj_dim") is not None:
        raise ValueError("pipe must be guided by two predictions, got one with time_cond_proj_dim (LCM)")
    call = inspect.signature(type(pipe).__call__).parameters
    for name in words:
        if name not in WORDS:
            why = "a rung does not take it" if name in call else "the pipeline has no such word"
            raise ValueError(f"words must be {', '.join(WORDS)}, got {name}: {why}")
