"""The models of a pipeline that a plan is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .inputs import kind_of
from .skeleton import weight_bytes

DENOISERS = ("unet", "transformer")
HOOKS = ("_hf_hook", "_diffusers_hook")


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """``denoiser`` alone for a bare model; ``others``: modules that only weigh (a ControlNet, say)."""

    denoiser: nn.Module
    vae: nn.Module | None
    text: Mapping[str, nn.Module]
    others: Mapping[str, nn.Module]

    @classmethod
    def of(cls, pipe_or_model: Any) -> Parts:
        """Raises: TypeError for something else, ValueError for a denoiser that plans do not know."""
        if isinstance(pipe_or_model, nn.Module):
            kind_of(pipe_or_model)
            return cls(denoiser=pipe_or_model, vae=None, text={}, others={})
        components = getattr(pipe_or_model, "components", None)
        if not isinstance(components, Mapping):
            raise TypeError(
                f"plan needs a diffusers pipeline or its model, got {type(pipe_or_model).__name__}"
            )
        modules = {name: part for name, part in components.items() if isinstance(part, nn.Module)}
        denoiser = next((modules.pop(name) for name in DENOISERS if name in modules), None)
        if denoiser is None:
            raise ValueError("plan needs a pipeline with a unet or a transformer")
        kind_of(denoiser)
        vae = modules.pop("vae", None)
        text = {name: m for name, m in modules.items() if name.startswith("text_encoder")}
        others = {name: m for name, m in modules.items() if name not in text}
        return cls(denoiser=denoiser, vae=vae, text=text, others=others)

    def weights(self, dtype: torch.dtype | None) -> dict[str, int]:
        """Bytes of "text encoders", "denoiser", "VAE decode" and "others"."""
        sums = {
            "text encoders": sum(weight_bytes(m, dtype) for m in self.text.values()),
            "denoiser": weight_bytes(self.denoiser, dtype),
            "others": sum(weight_bytes(m, dtype) for m in self.others.values()),
        }
        return sums | ({} if self.vae is None else {"VAE decode": weight_bytes(self.vae, dtype)})

    def offloaded(self) -> bool:
        """Whether hooks bring weights to the device only while they are used."""
        whole = [self.denoiser, *self.text.values(), *([self.vae] if self.vae is not None else [])]
        return any(hasattr(module, name) for part in whole for module in part.modules() for name in HOOKS)

    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device
