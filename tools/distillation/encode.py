"""Pictures and captions through a pipeline's VAE and text encoders."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
Prompts = dict[str, Tensor]


def encode_sd(pipe: Any, prompts: list[str], device: torch.device) -> Prompts:
    return {"prompt": pipe.encode_prompt(prompts, device, 1, False)[0]}


def encode_sdxl(pipe: Any, prompts: list[str], device: torch.device) -> Prompts:
    prompt, _, pooled, _ = pipe.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)
    return {"prompt": prompt, "pooled": pooled}


def encode_flux(pipe: Any, prompts: list[str], device: torch.device) -> Prompts:
    prompt, pooled, _ = pipe.encode_prompt(prompts, None, device=device)
    return {"prompt": prompt, "pooled": pooled}


def encode_sd3(pipe: Any, prompts: list[str], device: torch.device) -> Prompts:
    words = {"device": device, "do_classifier_free_guidance": False}
    prompt, _, pooled, _ = pipe.encode_prompt(prompts, None, None, **words)
    return {"prompt": prompt, "pooled": pooled}


def encode_pixart(pipe: Any, prompts: list[str], device: torch.device) -> Prompts:
    prompt, mask, _, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, device=device)
    return {"prompt": prompt, "mask": mask}


PROMPTS: dict[str, Callable[[Any, list[str], torch.device], Prompts]] = {
    "StableDiffusionPipeline": encode_sd,
    "StableDiffusionXLPipeline": encode_sdxl,
    "FluxPipeline": encode_flux,
    "StableDiffusion3Pipeline": encode_sd3,
    "PixArtAlphaPipeline": encode_pixart,
    "PixArtSigmaPipeline": encode_pixart,
}


class Encoder:
    """A pipeline's VAE (float32) and text encoders, on ``device``.

    Args:
        pipe: of diffusers; one without text encoders knows classes only.
        texts: whether there are captions to encode.
    Raises: ValueError for a pipeline whose prompts are not known here, or without text encoders.
    """

    def __init__(self, pipe: Any, device: torch.device, texts: bool) -> None:
        self.pipe, self.device = pipe, device
        self.vae = pipe.vae.to(device).eval()
        self.prompt = PROMPTS.get(type(pipe).__name__)
        if texts and self.prompt is None:
            raise ValueError(
                f"--teacher must be one of {', '.join(PROMPTS)} for captions, got {type(pipe).__name__}"
            )
        if texts and getattr(pipe, "text_encoder", None) is None:
            raise ValueError("--teacher must have its text encoders and tokenizers, this one has none")
        for name in ENCODERS if texts else ():
            if getattr(pipe, name, None) is not None:
                getattr(pipe, name).to(device)

    @torch.no_grad()
    def latents(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) from -1 to 1 -> mean and deviation (B, C, h, w), scaled as the denoiser has them."""
        config = self.vae.config
        law = self.vae.encode(pixels.to(self.device)).latent_dist
        mean = (law.mean - (config.shift_factor or 0)) * config.scaling_factor
        return mean.cpu(), (law.std * config.scaling_factor).cpu()

    @torch.no_grad()
    def captions(self, texts: Sequence[str]) -> Prompts:
        return {name: value.cpu() for name, value in self.prompt(self.pipe, list(texts), self.device).items()}

    def absent(self) -> Prompts:
        """The empty prompt's conditions without a batch axis; SD-XL's are zeros by its own setting."""
        empty = {name: value[0] for name, value in self.captions([""]).items()}
        if getattr(self.pipe.config, "force_zeros_for_empty_prompt", False):
            empty = {name: torch.zeros_like(value) for name, value in empty.items()}
        return empty


def factor(vae: nn.Module) -> int:
    """Pixels a side of one latent."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def fingerprint(pipe: Any, texts: bool) -> dict[str, str]:
    """A hash of the first and last weights of the VAE and each text encoder: others make another cache."""
    found = {}
    for name in ("vae", *(ENCODERS if texts else ())):
        module = getattr(pipe, name, None)
        if module is None:
            continue
        weights = list(module.parameters())
        numbers = [
            p.detach().flatten()[:4096].float().cpu().numpy().tobytes() for p in (weights[0], weights[-1])
        ]
        found[name] = hashlib.sha256(b"".join(numbers)).hexdigest()[:16]
    return found
