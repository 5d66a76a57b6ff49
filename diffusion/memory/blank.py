"""Models of the published sizes without weights, on the meta device: a plan needs no download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

CLIP_L = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
CLIP_G = dict(
    hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20,
    projection_dim=1280,
)  # fmt: skip
T5_XXL = dict(
    d_model=4096, d_ff=10240, d_kv=64, num_heads=64, num_layers=24, vocab_size=32128,
    feed_forward_proj="gated-gelu",
)  # fmt: skip
VAE = dict(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    norm_num_groups=32,
)
SD15_UNET = dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
SDXL_UNET = dict(
    sample_size=128,
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10),
    attention_head_dim=(5, 10, 20),
    cross_attention_dim=2048,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)

# name -> component -> (class, config); what is not said is the class's default
PUBLISHED: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "sd15": {
        "text_encoder": ("CLIPTextModel", CLIP_L),
        "unet": ("UNet2DConditionModel", SD15_UNET),
        "vae": ("AutoencoderKL", VAE | {"sample_size": 512}),
    },
    "sdxl": {
        "text_encoder": ("CLIPTextModel", CLIP_L),
        "text_encoder_2": ("CLIPTextModelWithProjection", CLIP_G),
        "unet": ("UNet2DConditionModel", SDXL_UNET),
        "vae": ("AutoencoderKL", VAE | {"sample_size": 1024, "scaling_factor": 0.13025}),
    },
    "flux": {
        "text_encoder": ("CLIPTextModel", CLIP_L),
        "text_encoder_2": ("T5EncoderModel", T5_XXL),
        "transformer": ("FluxTransformer2DModel", {"guidance_embeds": True}),
        "vae": (
            "AutoencoderKL",
            VAE | {
                "sample_size": 1024, "latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159,
                "use_quant_conv": False, "use_post_quant_conv": False, "force_upcast": True,
            },
        ),
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Blank:
    """Stands for a pipeline whose weights are not there."""

    name: str
    components: dict[str, nn.Module]


def blank(name: str, method: str | None = None, dtype: torch.dtype = torch.bfloat16, **options: Any) -> Blank:
    """The modules of a published model on the meta device, for ``plan``.

    Args:
        name: "sd15", "sdxl" or "flux".
        method, options: as in ``linearize``; None leaves softmax attention.
    Raises: ValueError for another name.
    """
    if name not in PUBLISHED:
        raise ValueError(f"name must be one of {', '.join(PUBLISHED)}, got {name!r}")
    parts = {part: build(kind, config, dtype) for part, (kind, config) in PUBLISHED[name].items()}
    if method is not None:
        from ..linearize import linearize

        linearize(parts.get("unet") or parts["transformer"], method, **options)
    return Blank(name=name, components=parts)


def build(kind: str, config: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    """One model of diffusers or transformers on the meta device."""
    import diffusers
    import transformers

    with torch.device("meta"):
        if hasattr(diffusers, kind):
            model = getattr(diffusers, kind)(**config)
        else:
            cls = getattr(transformers, kind)
            model = cls(cls.config_class(**config))
    return nn.Module.to(model, dtype).eval()  # diffusers' own ``to`` warns of every cast
