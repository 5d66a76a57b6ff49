"""Whole diffusers pipelines, tiny, built without downloads, with seeded embeddings in place of prompts.

``build("sd")`` gives a ``Tiny``; ``tiny.run()`` draws its image in two steps. ``tiny.variant(Pipeline)`` puts
the same modules into another pipeline class (img2img, inpaint, ControlNet, PAG). The VAE halves sizes once:
32 x 48 pixels are 16 x 24 latents.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

STEPS = 2
HEIGHT, WIDTH = 32, 48  # pixels; DiT draws squares of its sample size
CONDITIONING = (8, 16)  # channels of a ControlNet's image path that halves sizes once, like the VAE


@dataclass
class Tiny:
    """A pipeline and the words to call it with."""

    pipe: object
    inputs: dict

    @property
    def model(self) -> nn.Module:
        return getattr(self.pipe, "unet", None) or self.pipe.transformer

    def run(self, seed: int = 5, **changes) -> Tensor:
        """Images, (B, H, W, 3) in [0, 1] or latents (output_type="latent"); same seed, same noise."""
        words = self.inputs | changes
        words.setdefault("generator", torch.Generator().manual_seed(seed))
        return torch.as_tensor(self.pipe(**words).images)

    def variant(self, pipeline: type, parts: dict | None = None, **words) -> Tiny:
        """The same modules in another pipeline class; ``parts`` are the modules that it has more of."""
        taken = inspect.signature(pipeline.__init__).parameters
        own = {name: part for name, part in self.pipe.components.items() if name in taken}
        pipe = quiet(pipeline(**own, **(parts or {})))
        named = inspect.signature(pipe.__call__).parameters
        return Tiny(pipe, {name: value for name, value in self.inputs.items() if name in named} | words)


def build(kind: str, seed: int = 0, **changes) -> Tiny:
    """The pipeline ``kind``, one of KINDS; ``changes`` go into the config of its UNet or transformer."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tiny = KINDS[kind](changes)
    return replace(tiny, pipe=quiet(tiny.pipe))


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def embeds(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> Tensor:
    """An image batch for img2img and ControlNet, (1, C, H, W) in [0, 1]."""
    return torch.rand((1, channels, height, width), generator=torch.Generator().manual_seed(9))


def vae(**changes) -> nn.Module:
    from diffusers import AutoencoderKL

    config = dict(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    return AutoencoderKL(**config | changes).eval()


def flow_vae() -> nn.Module:
    return vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5)


def unet(**changes) -> nn.Module:
    from diffusers import UNet2DConditionModel

    config = dict(
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=32,
        cross_attention_dim=32,
        attention_head_dim=(2, 4),  # the number of heads, by its historical name
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    return UNet2DConditionModel(**config | changes).eval()


def controlnet(unet: nn.Module) -> nn.Module:
    """A ControlNet of the shape of ``unet``; its output convolutions are filled, so that it has a say."""
    from diffusers import ControlNetModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=CONDITIONING, load_weights_from_unet=False
        )
        for convolution in (*net.controlnet_down_blocks, net.controlnet_mid_block):
            nn.init.normal_(convolution.weight, std=0.2)
    return net.eval()


def sd(changes: dict) -> Tiny:
    from diffusers import StableDiffusionPipeline

    model = unet(**changes)
    pipe = StableDiffusionPipeline(
        vae=vae(),
        text_encoder=None,
        tokenizer=None,
        unet=model,
        scheduler=ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    width = model.config.cross_attention_dim
    prompt = dict(prompt_embeds=embeds(1, 77, width), negative_prompt_embeds=embeds(1, 77, width, seed=2))
    return Tiny(pipe, prompt | size())


def sdxl(changes: dict) -> Tiny:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    config = dict(
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + 16,
    )
    model = unet(**config | changes)
    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipe = StableDiffusionXLPipeline(
        vae=vae(), unet=model, scheduler=EulerDiscreteScheduler(), add_watermarker=False, **parts
    )
    width = model.config.cross_attention_dim
    prompt = dict(
        prompt_embeds=embeds(1, 77, width),
        negative_prompt_embeds=embeds(1, 77, width, seed=2),
        pooled_prompt_embeds=embeds(1, 16, seed=3),
        negative_pooled_prompt_embeds=embeds(1, 16, seed=4),
    )
    return Tiny(pipe, prompt | size())


def flux(changes: dict) -> Tiny:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    config = dict(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipe = FluxPipeline(
        vae=flow_vae(),
        transformer=FluxTransformer2DModel(**config | changes).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        **parts,
    )
    prompt = dict(prompt_embeds=embeds(1, 24, 32), pooled_prompt_embeds=embeds(1, 32, seed=3))
    return Tiny(pipe, prompt | size())


def sd3(changes: dict) -> Tiny:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    config = dict(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=64,
        pos_embed_max_size=32,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
    )
    parts = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
    pipe = StableDiffusion3Pipeline(
        vae=flow_vae(),
        transformer=SD3Transformer2DModel(**config | changes).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        **dict.fromkeys(parts),
    )
    prompt = dict(
        prompt_embeds=embeds(1, 20, 32),
        negative_prompt_embeds=embeds(1, 20, 32, seed=2),
        pooled_prompt_embeds=embeds(1, 64, seed=3),
        negative_pooled_prompt_embeds=embeds(1, 64, seed=4),
    )
    return Tiny(pipe, prompt | size())


def dit(changes: dict) -> Tiny:
    from diffusers import DiTPipeline, DiTTransformer2DModel

    config = dict(
        sample_size=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        in_channels=4,
        out_channels=8,
        norm_type="ada_norm_zero",
        num_embeds_ada_norm=1000,
        norm_elementwise_affine=False,
    )
    pipe = DiTPipeline(
        transformer=DiTTransformer2DModel(**config | changes).eval(), vae=vae(), scheduler=ddim()
    )
    return Tiny(pipe, dict(class_labels=[3], num_inference_steps=STEPS, output_type="np"))


def pixart(pipeline: str, changes: dict) -> Tiny:
    import diffusers

    config = dict(
        sample_size=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=32,
        caption_channels=32,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        use_additional_conditions=False,
    )
    pipe = getattr(diffusers, pipeline)(
        tokenizer=None,
        text_encoder=None,
        vae=vae(),
        transformer=diffusers.PixArtTransformer2DModel(**config | changes).eval(),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )
    prompt = dict(
        prompt_embeds=embeds(1, 12, 32),
        prompt_attention_mask=torch.ones(1, 12),
        negative_prompt=None,  # its default, an empty string, is refused beside embeddings
        negative_prompt_embeds=embeds(1, 12, 32, seed=2),
        negative_prompt_attention_mask=torch.ones(1, 12),
        use_resolution_binning=False,
    )
    return Tiny(pipe, prompt | size())


def ddim():
    from diffusers import DDIMScheduler

    return DDIMScheduler(steps_offset=1, clip_sample=False)  # as StableDiffusionPipeline asks


def size() -> dict:
    return dict(height=HEIGHT, width=WIDTH, num_inference_steps=STEPS, output_type="np")


KINDS = {
    "sd": sd,
    "sdxl": sdxl,
    "flux": flux,
    "sd3": sd3,
    "dit": dit,
    "pixart_sigma": lambda changes: pixart("PixArtSigmaPipeline", changes),
    "pixart_alpha": lambda changes: pixart("PixArtAlphaPipeline", changes),
}
